//! Connections to sources: a lease is a pooled connection while it is checked out;
//! it returns when dropped if it is at rest, and is discarded otherwise. One budget
//! per server address bounds the open connections, whatever role or database.

use crate::connect::{self, ConnectError, ConnectOptions};
use crate::server::ServerConnection;
use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Why no lease could be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All connections of the server's budget stayed in use.
    #[error("no connection to {address} became free within {} s (all {budget} in use)", .waited.as_secs_f32())]
    Busy {
        /// The server.
        address: String,
        /// `limits.source_connections_max`.
        budget: usize,
        /// How long we waited.
        waited: Duration,
    },
    /// A new connection could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

enum Handover {
    Connection(Box<ServerConnection>),
    Slot,
}

#[derive(Default)]
struct State {
    /// Open or being opened, idle ones included.
    open: usize,
    idle: HashMap<Arc<ConnectOptions>, Vec<ServerConnection>>,
    waiters: VecDeque<(Arc<ConnectOptions>, oneshot::Sender<Handover>)>,
    /// How many each user holds for transaction blocks, which end when the user says so.
    held: HashMap<String, usize>,
}

impl State {
    /// Whether all connections wait for users to end their blocks: none comes back by itself.
    fn is_stuck(&self, budget: usize) -> bool {
        self.held.values().sum::<usize>() >= budget
    }

    /// Takes `most` connections, or as many as are free, if these are at least `least`:
    /// those that are open, and how many are to be opened.
    fn take(
        &mut self,
        budget: usize,
        key: &Arc<ConnectOptions>,
        least: usize,
        most: usize,
    ) -> Option<(Vec<ServerConnection>, usize)> {
        let idle: usize = self.idle.values().map(Vec::len).sum();
        let count = most.min(budget.saturating_sub(self.open) + idle);
        if count < least {
            return None;
        }
        let mut connections = Vec::new();
        let mut dead = 0;
        while connections.len() + dead < count
            // The last one is the warmest.
            && let Some(mut connection) = self.idle.get_mut(key).and_then(Vec::pop)
        {
            match connection.is_alive() {
                true => connections.push(connection),
                // The server has ended it while it was idle: its slot is ours.
                false => dead += 1,
            }
        }
        let slots = count - connections.len();
        for _ in dead..slots {
            if self.open < budget {
                self.open += 1;
            } else if let Some(other) = self.idle.values_mut().find(|v| !v.is_empty()) {
                // Somebody else's idle connection makes room: its slot becomes ours.
                drop(other.pop());
            }
        }
        Some((connections, slots))
    }
}

struct Server {
    address: String,
    budget: usize,
    state: Mutex<State>,
    /// Told when a connection or a slot becomes free.
    freed: Notify,
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is never left half changed, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// No connection came within that time.
    fn busy(&self, waited: Duration) -> LeaseError {
        LeaseError::Busy { address: self.address.clone(), budget: self.budget, waited }
    }

    /// Gives a connection, or the slot of one that is gone, to whoever waits longest.
    fn give_back(&self, key: &Arc<ConnectOptions>, mut connection: Option<ServerConnection>) {
        if let Some(connection) = &mut connection {
            // Who waited for it does so no longer.
            connection.patience = None;
        }
        let mut state = self.lock();
        while let Some((wanted, waiter)) = state.waiters.pop_front() {
            let handover = match connection.take() {
                Some(c) if wanted == *key => Handover::Connection(Box::new(c)),
                _ => Handover::Slot,
            };
            match waiter.send(handover) {
                Ok(()) => return,
                // The waiter gave up: what it would have had goes to the next.
                Err(Handover::Connection(c)) => connection = Some(*c),
                Err(Handover::Slot) => {}
            }
        }
        match connection {
            Some(mut c) => {
                c.since = Instant::now();
                state.idle.entry(key.clone()).or_default().push(c);
            }
            None => state.open -= 1,
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

/// All connections to sources of one gateway.
pub struct SourcePools {
    /// Connections per server address.
    budget: usize,
    /// Bound on waiting for one.
    wait: Duration,
    servers: Mutex<HashMap<(String, u16), Arc<Server>>>,
}

/// Connections that were taken together, some of them still to be opened. Those that are
/// not used are given back when it is dropped.
pub struct Reservation {
    server: Arc<Server>,
    key: Arc<ConnectOptions>,
    connections: Vec<ServerConnection>,
    slots: usize,
}

impl Reservation {
    /// How many are left.
    pub fn count(&self) -> usize {
        self.connections.len() + self.slots
    }

    /// One of them; `None` when all have been used.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn lease(&mut self) -> Result<Option<Lease>, ConnectError> {
        let (server, key) = (self.server.clone(), self.key.clone());
        if let Some(connection) = self.connections.pop() {
            return Ok(Some(Lease::new(server, key, Some(connection))));
        }
        if self.slots == 0 {
            return Ok(None);
        }
        self.slots -= 1;
        // From here on the slot is the lease's; it gives it back if connecting fails.
        let mut lease = Lease::new(server, key, None);
        lease.connection = Some(connect::connect(&lease.key.clone()).await?);
        Ok(Some(lease))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for connection in self.connections.drain(..) {
            self.server.give_back(&self.key, Some(connection));
        }
        for _ in 0..std::mem::take(&mut self.slots) {
            self.server.give_back(&self.key, None);
        }
    }
}

/// Counts for one server address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCounts {
    /// `host:port`.
    pub address: String,
    /// Open connections, idle ones included.
    pub open: usize,
    /// Idle connections.
    pub idle: usize,
    /// Statements waiting for one.
    pub waiting: usize,
}

impl SourcePools {
    /// `budget` connections per server address; a lease waits at most `wait`.
    pub fn new(budget: usize, wait: Duration) -> SourcePools {
        SourcePools { budget: budget.max(1), wait, servers: Mutex::default() }
    }

    fn server(&self, address: &(String, u16)) -> Arc<Server> {
        let mut servers = self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        servers
            .entry(address.clone())
            .or_insert_with(|| {
                Arc::new(Server {
                    address: format!("{}:{}", address.0, address.1),
                    budget: self.budget,
                    state: Mutex::default(),
                    freed: Notify::new(),
                })
            })
            .clone()
    }

    /// Lends a connection made with exactly these options.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn lease(&self, options: &Arc<ConnectOptions>) -> Result<Lease, LeaseError> {
        let address = options.addresses.first().cloned().unwrap_or_default();
        let server = self.server(&address);
        let waiting = {
            let mut state = server.lock();
            if let Some((mut connections, _)) = state.take(server.budget, options, 1, 1) {
                drop(state);
                if let Some(connection) = connections.pop() {
                    return Ok(Lease::new(server, options.clone(), Some(connection)));
                }
                None
            } else if state.is_stuck(server.budget) {
                return Err(server.busy(Duration::ZERO));
            } else {
                let (tx, rx) = oneshot::channel();
                state.waiters.push_back((options.clone(), tx));
                Some(rx)
            }
        };
        if let Some(receiver) = waiting {
            let mut place = Waiting { server: server.clone(), key: options.clone(), receiver };
            match tokio::time::timeout(self.wait, &mut place.receiver).await {
                Ok(Ok(Handover::Connection(c))) => {
                    return Ok(Lease::new(server, options.clone(), Some(*c)));
                }
                Ok(Ok(Handover::Slot)) => {}
                _ => return Err(server.busy(self.wait)),
            }
        }
        // From here on the slot is ours; the lease gives it back if connecting fails.
        let mut slot = Lease::new(server, options.clone(), None);
        slot.connection = Some(connect::connect(options).await?);
        Ok(slot)
    }

    /// Takes `most` connections at once, or as many as are free, if these are at least
    /// `least`: two that had half of what they need each would wait for each other.
    pub fn reserve(
        &self,
        options: &Arc<ConnectOptions>,
        least: usize,
        most: usize,
    ) -> Option<Reservation> {
        let server = self.server(&options.addresses.first().cloned().unwrap_or_default());
        let mut state = server.lock();
        let (connections, slots) = state.take(server.budget, options, least, most)?;
        drop(state);
        Some(Reservation { server, key: options.clone(), connections, slots })
    }

    /// As [`SourcePools::reserve`] of exactly so many; waits for them as long as for one.
    ///
    /// # Errors
    /// [`LeaseError::Busy`].
    pub async fn reserve_all(
        &self,
        options: &Arc<ConnectOptions>,
        count: usize,
    ) -> Result<Reservation, LeaseError> {
        let server = self.server(&options.addresses.first().cloned().unwrap_or_default());
        let waiting = async {
            loop {
                let freed = server.freed.notified();
                if let Some(reservation) = self.reserve(options, count, count) {
                    return reservation;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.wait, waiting).await.map_err(|_| server.busy(self.wait))
    }

    /// Closes connections that have been idle for longer than `age`, and forgets servers that
    /// nobody has a connection to.
    pub fn reap(&self, age: Duration) {
        for server in self.all() {
            let mut state = server.lock();
            let before: usize = state.idle.values().map(Vec::len).sum();
            for list in state.idle.values_mut() {
                list.retain(|c| c.since.elapsed() <= age);
            }
            state.idle.retain(|_, list| !list.is_empty());
            let after: usize = state.idle.values().map(Vec::len).sum();
            state.open -= before - after;
        }
        // Whoever has a lease, waits for one or is about to has the server, too.
        let mut servers = self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        servers.retain(|_, server| Arc::strong_count(server) > 1 || server.lock().open > 0);
    }

    fn all(&self) -> Vec<Arc<Server>> {
        let servers = self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        servers.values().cloned().collect()
    }

    /// Counts per server address.
    pub fn counts(&self) -> Vec<ServerCounts> {
        let count = |server: Arc<Server>| {
            let state = server.lock();
            ServerCounts {
                address: server.address.clone(),
                open: state.open,
                idle: state.idle.values().map(Vec::len).sum(),
                waiting: state.waiters.iter().filter(|(_, w)| !w.is_closed()).count(),
            }
        };
        self.all().into_iter().map(count).collect()
    }
}

/// A place in the queue. What is handed over while its owner gives up goes on to the next.
struct Waiting {
    server: Arc<Server>,
    key: Arc<ConnectOptions>,
    receiver: oneshot::Receiver<Handover>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Handover::Connection(c)) => self.server.give_back(&self.key, Some(*c)),
            Ok(Handover::Slot) => self.server.give_back(&self.key, None),
            Err(_) => {}
        }
    }
}

/// A connection while it is checked out. Dropping returns it when it is at rest,
/// else closes it.
pub struct Lease {
    server: Arc<Server>,
    key: Arc<ConnectOptions>,
    connection: Option<ServerConnection>,
    /// For whose transaction block it is held.
    holder: Option<String>,
}

impl Lease {
    fn new(
        server: Arc<Server>,
        key: Arc<ConnectOptions>,
        connection: Option<ServerConnection>,
    ) -> Lease {
        Lease { server, key, connection, holder: None }
    }

    /// Holds the connection for a transaction block of this user. `false`: the user has half
    /// of the server's connections in blocks already, and the others are left to others.
    #[must_use]
    pub fn hold(&mut self, user: &str) -> bool {
        if self.holder.is_none() {
            let mut state = self.server.lock();
            let held = state.held.entry(user.to_owned()).or_default();
            if *held >= (self.server.budget / 2).max(1) {
                return false;
            }
            *held += 1;
            self.holder = Some(user.to_owned());
        }
        true
    }

    fn let_go(&mut self) {
        let Some(user) = self.holder.take() else { return };
        let mut state = self.server.lock();
        if let Some(held) = state.held.get_mut(&user) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(&user);
            }
        }
    }

    /// Closes the connection instead of returning it: its state is in doubt.
    pub fn discard(mut self) {
        self.connection = None;
    }
}

/// What `Lease` derefs to once its connection has been taken; never reached.
fn gone() -> ! {
    unreachable!("a lease holds its connection until it is dropped")
}

impl Deref for Lease {
    type Target = ServerConnection;
    fn deref(&self) -> &ServerConnection {
        self.connection.as_ref().unwrap_or_else(|| gone())
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        self.connection.as_mut().unwrap_or_else(|| gone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.let_go();
        let connection = self.connection.take();
        if let Some(busy) = connection.as_ref().filter(|c| c.is_busy())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // The server would go on working for nobody, perhaps waiting for a lock.
            runtime.spawn(busy.cancel_key.clone().cancel_abandoned());
        }
        let connection = connection.filter(ServerConnection::is_clean);
        self.server.give_back(&self.key, connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port: u16) -> Arc<ConnectOptions> {
        Arc::new(ConnectOptions {
            addresses: vec![("nowhere".to_owned(), port)],
            database: String::new(),
            user: String::new(),
            password: None,
            scram_keys: None,
            parameters: Vec::new(),
            ssl_mode: connect::SslMode::Disable,
            ssl_roots: None,
            reach: crate::Reach::Anywhere,
            plain_password: false,
            message_bytes_max: usize::MAX,
            tcp: crate::TcpLimits::default(),
            timeout: Duration::ZERO,
            on_connect: String::new(),
        })
    }

    #[tokio::test]
    async fn several_are_taken_at_once_or_none() {
        let pools = Arc::new(SourcePools::new(4, Duration::from_secs(60)));
        let (own, other) = (options(1), options(2));
        let count = |r: Option<Reservation>| r.map(|r| r.count());
        assert_eq!(count(pools.reserve(&own, 2, 9)), Some(4));
        let first = pools.reserve(&own, 1, 3);
        assert_eq!(first.as_ref().map(Reservation::count), Some(3));
        assert_eq!(count(pools.reserve(&own, 2, 2)), None);
        assert_eq!(count(pools.reserve(&own, 1, 2)), Some(1));
        assert_eq!(count(pools.reserve(&other, 4, 4)), Some(4));
        // Who waits for four has none of them, so that others go on.
        let waiting = tokio::spawn({
            let (pools, own) = (pools.clone(), own.clone());
            async move { pools.reserve_all(&own, 4).await.map(|r| r.count()) }
        });
        tokio::task::yield_now().await;
        let second = pools.reserve(&own, 1, 1);
        assert!(second.is_some());
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        assert!(matches!(waiting.await, Ok(Ok(4))));
        assert_eq!(count(pools.reserve(&own, 4, 4)), Some(4));
    }

    #[tokio::test]
    async fn no_user_holds_more_than_half_in_blocks_and_nobody_waits_for_blocks() {
        let pools = SourcePools::new(4, Duration::from_secs(60));
        let own = options(1);
        let server = pools.server(&own.addresses[0]);
        let mut leases: Vec<Lease> = Vec::new();
        for (user, may) in [("a", true), ("a", true), ("a", false), ("b", true), ("b", true)] {
            server.lock().open += 1;
            let mut lease = Lease::new(server.clone(), own.clone(), None);
            assert_eq!(lease.hold(user), may, "{user}");
            // Again is not one more.
            assert_eq!(lease.hold(user), may, "{user}");
            leases.extend(may.then_some(lease));
        }
        let began = Instant::now();
        assert!(matches!(pools.lease(&own).await, Err(LeaseError::Busy { .. })));
        assert!(began.elapsed() < Duration::from_secs(30));
        leases.clear();
        assert!(server.lock().held.is_empty() && server.lock().open == 0);
    }

    #[tokio::test]
    async fn a_server_that_nobody_uses_is_forgotten() {
        let pools = SourcePools::new(2, Duration::from_secs(60));
        let used = pools.reserve(&options(1), 1, 1);
        assert!(pools.reserve(&options(2), 1, 1).is_some());
        assert_eq!(pools.counts().len(), 2);
        pools.reap(Duration::ZERO);
        assert_eq!(pools.counts().len(), 1);
        drop(used);
        pools.reap(Duration::ZERO);
        assert!(pools.counts().is_empty());
    }

    #[tokio::test]
    async fn a_slot_that_cannot_be_connected_is_given_back() {
        let pools = SourcePools::new(2, Duration::from_secs(60));
        let own = options(1);
        let mut both = pools.reserve(&own, 2, 2);
        if let Some(reservation) = &mut both {
            assert!(reservation.lease().await.is_err());
            assert_eq!(reservation.count(), 1);
        }
        assert_eq!(pools.reserve(&own, 1, 2).map(|r| r.count()), Some(1));
        drop(both);
        assert_eq!(pools.reserve(&own, 2, 2).map(|r| r.count()), Some(2));
    }
}

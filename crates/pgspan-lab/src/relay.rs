//! A delaying TCP relay: puts a round-trip time on a link, half each way,
//! without taking bandwidth.
//!
//! Each direction reads chunks, stamps them with the moment at which they may
//! leave, and queues them; a second thread sends each when its moment has come.
//! Opening a connection costs a round trip too, as on a network.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Address, LabError};

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks under way in one direction: 32 MB when all are full.
const QUEUE_CHUNKS: usize = 512;

/// Part of a stream and when it may leave; `None` is the end of the stream.
type Timed = (Instant, Option<Vec<u8>>);

/// A relay whose threads run in this process; dropped, it takes no more
/// connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Relay {
    /// Listens on `from` and relays every connection to `to` with the given
    /// round-trip time.
    pub fn start(from: &Address, to: &Address, round_trip: Duration) -> Result<Relay, LabError> {
        let listener = TcpListener::bind((from.host.as_str(), from.port))
            .map_err(LabError::io(format!("relay: listening on {from}")))?;
        let address = listener.local_addr().map_err(LabError::io("relay: its own address"))?;
        let target = to
            .to_string()
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| LabError::Invalid(format!("relay: unknown address {to}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        spawn("relay", move || accept(&listener, target, round_trip, &stopped))
            .map_err(LabError::io("relay: starting a thread"))?;
        Ok(Relay { address, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address::new(self.address.ip().to_string(), self.address.port())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wake the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

/// Runs relays in the foreground, as the process that `pgspan lab relay` is:
/// `ROUND_TRIP_MICROSECONDS FROM=TO...`. Returns only on error.
pub fn run_from_args(args: &[OsString]) -> Result<(), LabError> {
    let usage = || LabError::Invalid("usage: relay ROUND_TRIP_MICROSECONDS FROM=TO...".into());
    let texts: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let [micros, links @ ..] = texts.as_slice() else {
        return Err(usage());
    };
    let round_trip = Duration::from_micros(micros.parse().map_err(|_| usage())?);
    let mut relays = Vec::new();
    for link in links {
        let (from, to) = link.split_once('=').ok_or_else(usage)?;
        relays.push(Relay::start(&from.parse()?, &to.parse()?, round_trip)?);
    }
    if relays.is_empty() {
        return Err(usage());
    }
    loop {
        thread::park();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(run).map(|_| ())
}

fn accept(listener: &TcpListener, target: SocketAddr, round_trip: Duration, stop: &AtomicBool) {
    for client in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match client {
            Ok(client) => {
                // A connection that gets no thread is closed: the client sees it.
                let _ = spawn("relay-connect", move || {
                    let _ = join(client, target, round_trip);
                });
            }
            // Out of descriptors, most likely: give others time to close some.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Joins a client to the target, both ways.
fn join(client: TcpStream, target: SocketAddr, round_trip: Duration) -> io::Result<()> {
    precise_timers();
    // The client's own connect returned at once: its handshake is paid here.
    thread::sleep(round_trip);
    let server = TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let half = round_trip / 2;
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
        let source = from.try_clone()?;
        spawn("relay-read", move || read(from, half, &sender))?;
        spawn("relay-write", move || write(to, &source, &receiver))?;
    }
    Ok(())
}

/// Reads until the end of the stream and queues what comes.
fn read(mut from: TcpStream, delay: Duration, queue: &SyncSender<Timed>) {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    loop {
        let chunk = match from.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(size) => Some(buffer[..size].to_vec()),
        };
        let last = chunk.is_none();
        if queue.send((Instant::now() + delay, chunk)).is_err() || last {
            return;
        }
    }
}

/// Sends each chunk when its moment has come; passes the end of the stream on.
fn write(mut to: TcpStream, source: &TcpStream, queue: &Receiver<Timed>) {
    precise_timers();
    while let Ok((moment, chunk)) = queue.recv() {
        let wait = moment.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let sent = match &chunk {
            Some(bytes) => to.write_all(bytes),
            None => to.shutdown(Shutdown::Write),
        };
        if sent.is_err() {
            // The far end is gone: nothing more may be read for it.
            let _ = source.shutdown(Shutdown::Both);
            return;
        }
        if chunk.is_none() {
            return;
        }
    }
}

/// Asks for wake-ups to the microsecond instead of the usual 50.
fn precise_timers() {
    #[cfg(target_os = "linux")]
    // SAFETY: this option takes one integer and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0, 0, 0);
    }
}

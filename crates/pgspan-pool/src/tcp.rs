//! When the system gives a TCP connection up whose other side is silent.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How often the other side is asked again that has not answered, and how many times.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_TIMES: u32 = 3;

/// Bounds on the silence of a connection's other side (tcp(7)). Zero: the system's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpLimits {
    /// After so long without a byte the other side is asked whether it is there; three
    /// unanswered questions, ten seconds apart, end the connection.
    pub keepalive: Duration,
    /// How long what was sent may remain unacknowledged, or unsent because the other side
    /// does not read (`TCP_USER_TIMEOUT`).
    pub unacknowledged_max: Duration,
}

impl TcpLimits {
    /// Makes them hold for a connection, and sends what is written at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn apply(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let socket = SockRef::from(tcp);
        if !self.keepalive.is_zero() {
            let probes = TcpKeepalive::new().with_time(self.keepalive).with_interval(ASK_EVERY);
            socket.set_tcp_keepalive(&probes.with_retries(ASK_TIMES))?;
        }
        if !self.unacknowledged_max.is_zero() {
            socket.set_tcp_user_timeout(Some(self.unacknowledged_max))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_the_limits() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let untouched = SockRef::from(&tcp).tcp_user_timeout().unwrap();
        TcpLimits::default().apply(&tcp).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), untouched);
        let (keepalive, unacknowledged_max) = (Duration::from_secs(7), Duration::from_secs(9));
        TcpLimits { keepalive, unacknowledged_max }.apply(&tcp).unwrap();
        assert!(socket.keepalive().unwrap() && tcp.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(unacknowledged_max));
    }
}

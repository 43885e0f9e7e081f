//! Free ports, as the operating system gives them.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use crate::{Address, LabError};

/// `count` different free ports on 127.0.0.1. They are free now; whoever binds
/// one may still lose it to another process, and says so then.
pub fn free_ports(count: usize) -> Result<Vec<u16>, LabError> {
    let listeners: Result<Vec<TcpListener>, _> =
        (0..count).map(|_| TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))).collect();
    listeners
        .and_then(|listeners| {
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
        })
        .map_err(LabError::io("asking for a free port"))
}

/// Takes an address for as long as the result lives.
pub(crate) fn take(host: &str, port: u16) -> Option<TcpListener> {
    TcpListener::bind((host, port)).ok()
}

/// Whether somebody accepts connections there.
pub(crate) fn accepts(address: &Address) -> bool {
    let Ok(ip) = address.host.parse() else {
        return false;
    };
    let target = std::net::SocketAddr::new(ip, address.port);
    TcpStream::connect_timeout(&target, Duration::from_millis(500)).is_ok()
}

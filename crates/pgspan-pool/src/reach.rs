//! Which addresses a connection may lead to. A name is resolved, then each of its addresses
//! is judged, and only a judged one is connected to: no spelling of an address (`127.1`,
//! `0x7f000001`, `::ffff:127.0.0.1`, a name of one's own) passes for another.

use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpStream, lookup_host};

/// Which addresses a connection may lead to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reach {
    /// All: the configuration names the address.
    Anywhere,
    /// All but those of this machine, of its link, and by which clouds tell secrets; these only
    /// if this host and port lead to one of the same kind.
    Beside(String, u16),
    /// Those of these networks.
    Within(Arc<[IpNet]>),
}

/// Kinds of special addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of this machine (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3). Linux takes the
    /// unspecified address for it, too.
    Loopback,
    /// Of this link (RFC 3927; RFC 4291, section 2.5.6), with the addresses by which clouds
    /// tell a machine its secrets.
    Link,
}

/// Where clouds tell a machine about itself besides 169.254.169.254: EC2 and Alibaba by
/// IPv6 and IPv4, Oracle.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

fn kind(address: IpAddr) -> Option<Kind> {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return Some(Kind::Link);
    }
    match address {
        IpAddr::V4(a) if a.is_loopback() || a.octets()[0] == 0 => Some(Kind::Loopback),
        IpAddr::V4(a) if a.is_link_local() => Some(Kind::Link),
        IpAddr::V6(a) if a.is_loopback() || a.is_unspecified() => Some(Kind::Loopback),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some(Kind::Link),
        _ => None,
    }
}

impl Reach {
    /// Connects to the first address of a host that may be reached and answers.
    ///
    /// # Errors
    /// A name that cannot be resolved; `PermissionDenied` when none of its addresses may be
    /// reached; else the last failure.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "its address is not in a network that sources may be in (gateway.source_networks)",
        );
        for address in lookup_host((host, port)).await? {
            if !self.permits(address.ip()).await {
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn permits(&self, address: IpAddr) -> bool {
        match self {
            Reach::Anywhere => true,
            Reach::Within(networks) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
            Reach::Beside(host, port) => {
                let Some(special) = kind(address) else { return true };
                let beside = lookup_host((host.as_str(), *port)).await;
                let mut beside = beside.into_iter().flatten().map(|a: SocketAddr| a.ip());
                beside.any(|home| kind(home) == Some(special))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn allows(reach: &Reach, host: &str) -> bool {
        let mut addresses = lookup_host((host, 1)).await.unwrap();
        let address = addresses.next().unwrap();
        reach.permits(address.ip()).await
    }

    #[tokio::test]
    async fn an_address_is_what_it_leads_to_however_it_is_written() {
        let away = Reach::Beside("192.0.2.1".to_owned(), 1);
        let here = Reach::Beside("127.0.0.1".to_owned(), 1);
        for loopback in [
            "127.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "LOCALHOST",
            "localhost.",
        ] {
            // Not every spelling is known to every resolver.
            let Ok(mut found) = lookup_host((loopback, 1)).await else { continue };
            let address = found.next().unwrap().ip();
            assert!(!away.permits(address).await, "{loopback}");
            assert!(here.permits(address).await, "{loopback}");
        }
        for link in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.1.1"] {
            assert!(!allows(&away, link).await && !allows(&here, link).await, "{link}");
        }
        for other in ["10.0.0.1", "192.0.2.7", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(allows(&away, other).await && allows(&here, other).await, "{other}");
        }
    }

    #[tokio::test]
    async fn networks_that_are_listed_are_all_there_are() {
        let listed = ["10.1.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
        let within = Reach::Within(Arc::new(listed));
        assert!(allows(&within, "10.1.2.3").await && allows(&within, "::ffff:127.0.0.1").await);
        assert!(!allows(&within, "10.2.0.1").await && !allows(&within, "::1").await);
        let refused = within.connect("192.0.2.1", 1).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}

//! A foreign server's and user mapping's options → where and as whom to connect.

use crate::cause::Cause;
use crate::facts::{ForeignServer, option};
use crate::route::Reason;

/// Where and as whom a source is reached: what libpq would make of the options.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerSpec {
    /// The foreign server's name at home.
    pub name: String,
    /// Hosts and ports in order.
    pub addresses: Vec<(String, u16)>,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Password.
    pub password: Option<String>,
    /// `sslmode`, when given.
    pub ssl_mode: Option<String>,
    /// `sslrootcert`, when given.
    pub ssl_root_certificate: Option<String>,
    /// `options`, when given.
    pub startup_options: Option<String>,
    /// `application_name`; postgres_fdw's default is its own name.
    pub application_name: String,
    /// `connect_timeout` in s, when given.
    pub connect_timeout_s: Option<u64>,
}

impl std::fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the password.
        write!(f, "{} ({}@{:?}/{})", self.name, self.user, self.addresses, self.database)
    }
}

/// Options that steer postgres_fdw's own planning or writing, or the TCP connection:
/// they do not change which rows a fetch gives.
const NEUTRAL: &[&str] = &[
    "fetch_size",
    "use_remote_estimate",
    "fdw_startup_cost",
    "fdw_tuple_cost",
    "updatable",
    "truncatable",
    "async_capable",
    "batch_size",
    "keep_connections",
    "parallel_commit",
    "parallel_abort",
    "analyze_sampling",
    "extensions",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "fallback_application_name",
];

const UNDERSTOOD: &[&str] = &[
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "options",
    "application_name",
    "connect_timeout",
];

impl ServerSpec {
    /// Reads the options.
    ///
    /// # Errors
    /// When there is no mapping, or an option that this gateway does not understand:
    /// home then connects itself.
    pub fn new(server: &ForeignServer) -> Result<ServerSpec, Reason> {
        if !server.postgres_fdw {
            return Err(Reason::about(Cause::OtherWrapper, &server.name));
        }
        if !server.mapped {
            return Err(Reason::about(Cause::NoMapping, &server.name));
        }
        if server.mapping.is_none() {
            return Err(Reason::about(Cause::MappingUnreadable, &server.name));
        }
        if server.wrapper_options.as_ref().is_some_and(|o| !o.is_empty()) {
            return Err(Reason::about(Cause::WrapperOptions, &server.name));
        }
        for o in server.options.iter().chain(&server.mapping).flatten() {
            let (key, value) = o.split_once('=').unwrap_or((o, ""));
            let harmless = NEUTRAL.contains(&key)
                || UNDERSTOOD.contains(&key)
                || (key == "password_required" && value == "true")
                || (key == "target_session_attrs" && value == "any")
                || (key == "gssencmode" && value != "require");
            if !harmless {
                return Err(Reason::about(Cause::ServerOption, key));
            }
        }
        let get = |name: &str| option(&server.mapping, name).or(option(&server.options, name));
        let Some(hosts) = get("host").filter(|h| !h.is_empty() && !h.contains('/')) else {
            return Err(Reason::about(Cause::NoHost, &server.name));
        };
        let bad_port = || Reason::about(Cause::ServerPort, &server.name);
        let ports: Vec<u16> = match get("port") {
            None => vec![5432],
            Some(list) => list
                .split(',')
                .map(|p| if p.is_empty() { Ok(5432) } else { p.trim().parse() })
                .collect::<Result<_, _>>()
                .map_err(|_| bad_port())?,
        };
        let hosts: Vec<_> = hosts.split(',').map(|h| h.trim().to_owned()).collect();
        if ports.len() != 1 && ports.len() != hosts.len() {
            return Err(bad_port());
        }
        let addresses = hosts
            .into_iter()
            .enumerate()
            .map(|(i, h)| (h, ports.get(i).or(ports.first()).copied().unwrap_or(5432)))
            .collect();
        let Some(user) = get("user").map(str::to_owned) else {
            return Err(Reason::about(Cause::MappingWithoutUser, &server.name));
        };
        let application_name = get("application_name").unwrap_or("postgres_fdw").to_owned();
        if application_name.contains('%') {
            return Err(Reason::about(Cause::ServerOption, "application_name"));
        }
        Ok(ServerSpec {
            name: server.name.clone(),
            addresses,
            database: get("dbname").unwrap_or(&user).to_owned(),
            password: get("password").map(str::to_owned),
            ssl_mode: get("sslmode").map(str::to_owned),
            ssl_root_certificate: get("sslrootcert").map(str::to_owned),
            startup_options: get("options").map(str::to_owned),
            application_name,
            connect_timeout_s: get("connect_timeout").and_then(|t| t.parse().ok()),
            user,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn server(options: &[&str]) -> ForeignServer {
        ForeignServer {
            name: "s".to_owned(),
            postgres_fdw: true,
            wrapper_options: None,
            options: Some(options.iter().map(|s| (*s).to_owned()).collect()),
            mapped: true,
            mapping: Some(vec!["user=u".to_owned(), "password=p=q".to_owned()]),
        }
    }

    #[test]
    fn host_lists_and_defaults() {
        let s = ServerSpec::new(&server(&["host=a,b", "port=1,2", "dbname=d"])).unwrap();
        assert_eq!(s.addresses, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(s.password.as_deref(), Some("p=q"));
        assert!(!format!("{s:?}").contains("p=q"));
    }

    #[test]
    fn unknown_options_are_left_to_home() {
        assert!(ServerSpec::new(&server(&["host=a", "krbsrvname=x"])).is_err());
        assert!(ServerSpec::new(&server(&["host=/tmp"])).is_err());
        assert!(ServerSpec::new(&server(&[])).is_err());
    }
}

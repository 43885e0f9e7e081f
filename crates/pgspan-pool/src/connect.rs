//! Opening a server connection: address list, TLS, startup, authentication.

use crate::reach::Reach;
use crate::roots::RootCertificates;
use crate::server::{Notices, ServerConnection};
use crate::stream::{self, Stream, Verify};
use crate::tcp::TcpLimits;
use bytes::BytesMut;
use pgspan_wire::backend::ErrorFields;
use pgspan_wire::frame::{self, Fields};
use pgspan_wire::scram::{self, ClientKeys, KeyExchange};
use pgspan_wire::scram_client::{ChannelBinding, ScramSha256};
use pgspan_wire::{frontend, md5_hash};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest message of a server that has not let us in yet, in bytes: libpq's bound is
/// 30,000 (`MAX_ERRLEN` in its fe-connect.c), its notices aside.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// All that a server may say until it has let us in, in bytes.
const LOGIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Notices of a startup that are kept for the client, on either side of the key; what is
/// more is not passed on.
const NOTICES_BYTES_MAX: usize = 256 * 1024;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS when the server offers it.
    #[default]
    Prefer,
    /// TLS; the certificate is checked only when a root certificate is given.
    Require,
    /// TLS and a chain to the root certificate.
    VerifyCa,
    /// TLS, the chain, and the host name.
    VerifyFull,
}

impl SslMode {
    /// From libpq's spelling. `allow` is treated as `prefer`.
    pub fn parse(text: &str) -> Option<SslMode> {
        Some(match text {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

/// Where and as whom to connect.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ConnectOptions {
    /// Hosts and ports, tried in order.
    pub addresses: Vec<(String, u16)>,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Password, if there is one.
    pub password: Option<Vec<u8>>,
    /// What is used in its place where the server asks for SCRAM-SHA-256.
    pub scram_keys: Option<ClientKeys>,
    /// Startup parameters besides user and database.
    pub parameters: Vec<(String, String)>,
    /// TLS.
    pub ssl_mode: SslMode,
    /// Root certificates.
    pub ssl_roots: Option<RootCertificates>,
    /// Which of the hosts' addresses may be connected to.
    pub reach: Reach,
    /// Whether a server that asks for the password in clear text, or hashed by MD5, gets it
    /// where the connection is not encrypted.
    pub plain_password: bool,
    /// The longest message that is kept, header included, in bytes.
    pub message_bytes_max: usize,
    /// Bounds on the server's silence.
    pub tcp: TcpLimits,
    /// Bound on reaching one address and being let in.
    pub timeout: Duration,
    /// SQL to run once connected, in simple protocol; empty for none.
    pub on_connect: String,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the password.
        write!(f, "{}@{:?}/{}", self.user, self.addresses, self.database)
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address could be reached.
    #[error("could not connect to {host}:{port}: {source}")]
    Unreachable {
        /// Host tried last.
        host: String,
        /// Port tried last.
        port: u16,
        /// Cause.
        source: io::Error,
    },
    /// The server refused.
    #[error("{error}")]
    Refused {
        /// Its own error.
        error: ErrorFields,
        /// The NoticeResponse messages in front of it, as they came.
        notices: BytesMut,
    },
    /// The server wants a way of authentication that is not supported, or a password
    /// where none is known.
    #[error("authentication to {host}:{port} is not possible: {reason}")]
    Authentication {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// What is missing.
        reason: String,
    },
}

fn protocol(message: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_string())
}

/// Opens a connection to the first address that lets us in.
///
/// # Errors
/// [`ConnectError`] of the last address tried; a refusal for wrong credentials is final.
pub async fn connect(options: &ConnectOptions) -> Result<ServerConnection, ConnectError> {
    let mut last = None;
    for (host, port) in &options.addresses {
        let attempt = tokio::time::timeout(options.timeout, connect_one(options, host, *port));
        match attempt.await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(e @ (ConnectError::Refused { .. } | ConnectError::Authentication { .. }))) => {
                return Err(e);
            }
            Ok(Err(e)) => last = Some(e),
            Err(_) => {
                last = Some(ConnectError::Unreachable {
                    host: host.clone(),
                    port: *port,
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
        }
    }
    Err(last.unwrap_or(ConnectError::Unreachable {
        host: String::new(),
        port: 0,
        source: protocol("no address given"),
    }))
}

async fn connect_one(
    options: &ConnectOptions,
    host: &str,
    port: u16,
) -> Result<ServerConnection, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { host: host.to_owned(), port, source };
    let tcp = options.reach.connect(host, port).await.map_err(unreachable)?;
    options.tcp.apply(&tcp).map_err(unreachable)?;
    let address = tcp.peer_addr().map_err(unreachable)?;
    let stream = secure(tcp, options, host).await.map_err(unreachable)?;
    let mut connection = ServerConnection::new(stream, address, LOGIN_MESSAGE_BYTES_MAX);
    let mut params = vec![("user", options.user.as_str()), ("database", options.database.as_str())];
    params.extend(options.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    frontend::startup(&mut connection.outbox, &params);
    authenticate(&mut connection, options, host, port).await?;
    connection.message_bytes_max = options.message_bytes_max;
    if !options.on_connect.is_empty() {
        connection.simple(&options.on_connect).await.map_err(|e| match e {
            crate::ServerError::Sql(error) => {
                ConnectError::Refused { error, notices: BytesMut::new() }
            }
            other => unreachable(protocol(other)),
        })?;
    }
    Ok(connection)
}

async fn secure(mut tcp: TcpStream, options: &ConnectOptions, host: &str) -> io::Result<Stream> {
    if options.ssl_mode == SslMode::Disable {
        return Ok(Stream::Plain(tcp));
    }
    let mut ask = BytesMut::new();
    frontend::ssl_request(&mut ask);
    tcp.write_all(&ask).await?;
    match tcp.read_u8().await? {
        b'S' => {
            let root = options.ssl_roots.as_ref();
            let verify = match options.ssl_mode {
                SslMode::VerifyFull => Verify::Full,
                SslMode::VerifyCa => Verify::Chain,
                _ if root.is_some() => Verify::Chain,
                _ => Verify::Nothing,
            };
            stream::connect_tls(tcp, host, verify, root).await
        }
        b'N' if options.ssl_mode == SslMode::Prefer => Ok(Stream::Plain(tcp)),
        b'N' => Err(protocol("server does not support SSL, but SSL was required")),
        other => Err(protocol(format!("unexpected answer {other} to SSLRequest"))),
    }
}

/// SCRAM-SHA-256 under way.
enum Scram {
    Password(ScramSha256),
    Keys(KeyExchange),
}

async fn authenticate(
    connection: &mut ServerConnection,
    options: &ConnectOptions,
    host: &str,
    port: u16,
) -> Result<(), ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { host: host.to_owned(), port, source };
    let impossible = |reason: &str| ConnectError::Authentication {
        host: host.to_owned(),
        port,
        reason: reason.to_owned(),
    };
    let mut exchanged: Option<Scram> = None;
    let mut said = 0;
    loop {
        connection.send().await.map_err(|e| unreachable(protocol(e)))?;
        let message = connection.receive().await.map_err(|e| unreachable(protocol(e)))?;
        said += message.raw.len();
        if message.is_cut() || said > LOGIN_BYTES_MAX {
            return Err(unreachable(protocol("it says more than a login takes")));
        }
        let malformed = |e: pgspan_wire::WireError| unreachable(protocol(e));
        match message.tag {
            b'E' => {
                return Err(ConnectError::Refused {
                    error: ErrorFields::read(&message),
                    notices: std::mem::take(&mut connection.notices.before_key),
                });
            }
            b'R' => {
                let mut f = Fields::new(b'R', message.body());
                let kind = f.i32().map_err(malformed)?;
                let password = || {
                    options.password.as_deref().ok_or_else(|| impossible("no password is known"))
                };
                match kind {
                    0 => {}
                    3 | 5 if !options.plain_password && !connection.stream.is_encrypted() => {
                        return Err(impossible(
                            "the server wants the password in clear text or hashed by MD5, and \
                             the connection is not encrypted (gateway.plain_passwords)",
                        ));
                    }
                    3 => {
                        connection.password_used = true;
                        let mut body = password()?.to_vec();
                        body.push(0);
                        frontend::password_message(&mut connection.outbox, &body);
                    }
                    5 => {
                        connection.password_used = true;
                        let salt = f.i32().map_err(malformed)?.to_be_bytes();
                        let mut body =
                            md5_hash(options.user.as_bytes(), password()?, salt).into_bytes();
                        body.push(0);
                        frontend::password_message(&mut connection.outbox, &body);
                    }
                    10 => {
                        let offered = f.rest();
                        let known = offered.split(|b| *b == 0).any(|name| name == b"SCRAM-SHA-256");
                        if !known {
                            return Err(impossible("the server offers no SCRAM-SHA-256"));
                        }
                        connection.password_used = true;
                        let (exchange, first) = match &options.scram_keys {
                            Some(keys) => {
                                let nonce = scram::nonce().map_err(|e| unreachable(protocol(e)))?;
                                let exchange = KeyExchange::new(keys.clone(), nonce);
                                let first = exchange.first().into_bytes();
                                (Scram::Keys(exchange), first)
                            }
                            None => {
                                let none = ChannelBinding::unsupported();
                                let exchange = ScramSha256::new(password()?, none);
                                let first = exchange.message().to_vec();
                                (Scram::Password(exchange), first)
                            }
                        };
                        let out = &mut connection.outbox;
                        frontend::sasl_initial_response(out, "SCRAM-SHA-256", &first);
                        exchanged = Some(exchange);
                    }
                    11 => match exchanged.as_mut().ok_or_else(|| impossible("SASL order"))? {
                        Scram::Password(exchange) => {
                            exchange.update(&f.rest()).map_err(unreachable)?;
                            frontend::password_message(&mut connection.outbox, exchange.message());
                        }
                        Scram::Keys(exchange) => {
                            let malformed = || impossible("its SCRAM message is malformed");
                            let last = exchange.last(&f.rest()).ok_or_else(malformed)?;
                            if !exchange.same_secret() {
                                let user = &options.user;
                                tracing::warn!(
                                    user,
                                    host,
                                    port,
                                    "the server keeps another SCRAM secret of this user than the \
                                     one in auth_file, or does not let the user in"
                                );
                            }
                            frontend::password_message(&mut connection.outbox, last.as_bytes());
                        }
                    },
                    12 => match exchanged.as_mut().ok_or_else(|| impossible("SASL order"))? {
                        Scram::Password(exchange) => {
                            exchange.finish(&f.rest()).map_err(unreachable)?;
                        }
                        Scram::Keys(exchange) if exchange.is_verified(&f.rest()) => {}
                        Scram::Keys(_) => {
                            return Err(impossible("the server does not know the SCRAM secret"));
                        }
                    },
                    _ => return Err(impossible("its authentication method is not supported")),
                }
            }
            b'K' => {
                let mut f = Fields::new(b'K', message.body());
                connection.cancel_key.pid = f.i32().map_err(malformed)?;
                connection.cancel_key.key = f.i32().map_err(malformed)?;
            }
            b'Z' => return Ok(()),
            b'N' => {
                let Notices { before_key, after_key } = &mut connection.notices;
                let held = if connection.cancel_key.pid == 0 { before_key } else { after_key };
                if held.len() + message.raw.len() <= NOTICES_BYTES_MAX {
                    held.extend_from_slice(&message.raw);
                }
            }
            b'S' | b'v' => {}
            other => {
                return Err(unreachable(protocol(format!("message {:?}", char::from(other)))));
            }
        }
        // Nothing of ours may wait behind unread messages.
        debug_assert!(frame::peek(&connection.inbox).is_ok());
    }
}

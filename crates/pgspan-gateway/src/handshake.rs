//! From the first packet to an open session: TLS, cancel requests, SCRAM, and the
//! session's server connection.

use crate::auth::Users;
use crate::gateway::{Admission, Endpoint, Shared};
use crate::lobby::Place;
use crate::logins::Refusal;
use crate::session::cancel::Sockets;
use crate::session::{ClientSide, Session};
use bytes::BytesMut;
use pgspan_pool::{ConnectError, ServerConnection, Stream};
use pgspan_wire::backend::{self, ErrorFields, TransactionStatus};
use pgspan_wire::frame::{self, Frame};
use pgspan_wire::scram::{self, ClientKeys};
use pgspan_wire::startup::{self, Startup};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

/// Longest message accepted before a client is authenticated, in bytes.
const LOGIN_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Serves one accepted connection to its end.
pub(crate) async fn serve(
    tcp: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    place: Place,
) {
    let login = Duration::from_millis(shared.config.limits.login_ms_max);
    let mut closing = shared.closing.clone();
    let opened = tokio::select! {
        biased;
        opened = tokio::time::timeout(login, open(tcp, peer, endpoint, (&shared, &place))) => opened,
        () = place.needed() => {
            shared.failures.note(peer.ip(), "", Refusal::NoRoom);
            return;
        }
        // Who has not logged in has nothing to finish.
        _ = closing.wait_for(|c| *c) => return,
    };
    match opened {
        Ok(Ok(Some((session, _admission)))) => session.run().await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "connection ended before login"),
        Err(_) => {
            shared.failures.note(peer.ip(), "", Refusal::TooSlow);
        }
    }
}

async fn open(
    tcp: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<Endpoint>,
    (shared, place): (&Arc<Shared>, &Place),
) -> io::Result<Option<(Session, Admission)>> {
    shared.config.limits.tcp_of_sessions().apply(&tcp)?;
    let mut stream = Stream::Plain(tcp);
    let mut buf = BytesMut::with_capacity(8 * 1024);
    let first = Duration::from_millis(shared.config.limits.first_message_ms_max);
    let mut first_by = Instant::now() + first;
    let (minor, params) = loop {
        let packet = loop {
            match startup::take(&mut buf) {
                Ok(Some(p)) => break p,
                Ok(None) => {
                    let read = tokio::time::timeout_at(first_by, stream.read_buf(&mut buf));
                    let Ok(read) = read.await else {
                        shared.failures.note(peer.ip(), "", Refusal::Silent);
                        return Ok(None);
                    };
                    if read? == 0 {
                        return Ok(None);
                    }
                }
                Err(e) => {
                    let error = ErrorFields::new("FATAL", "08P01", "invalid startup packet")
                        .with_detail(e.to_string());
                    return refuse(&mut stream, &error).await;
                }
            }
        };
        match packet {
            Startup::Tls if !buf.is_empty() => {
                // Bytes sent before the handshake could be an attack (CVE-2021-23214).
                let text = "received unencrypted data after SSL request";
                return refuse(&mut stream, &ErrorFields::new("FATAL", "08P01", text)).await;
            }
            Startup::Tls => {
                first_by = Instant::now() + first;
                let answered = tokio::time::timeout_at(first_by, answer_tls(stream, shared)).await;
                let Ok(answered) = answered else {
                    shared.failures.note(peer.ip(), "", Refusal::Silent);
                    return Ok(None);
                };
                stream = answered?;
                first_by = Instant::now() + first;
            }
            Startup::GssEncryption => stream.write_all(b"N").await?,
            Startup::Cancel { pid, key } => {
                shared.cancels.cancel(pid, &key).await;
                return Ok(None);
            }
            Startup::UnsupportedVersion { major, minor } => {
                let text = format!(
                    "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0"
                );
                return refuse(&mut stream, &ErrorFields::new("FATAL", "0A000", text)).await;
            }
            Startup::Session { minor, params } => break (minor, params),
        }
    };
    if let Some(error) = no_room(shared) {
        return refuse(&mut stream, &error).await;
    }
    let get = |name: &str| params.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let Some(user) = get("user").filter(|u| !u.is_empty()).map(str::to_owned) else {
        let text = "no PostgreSQL user name specified in startup packet";
        return refuse(&mut stream, &ErrorFields::new("FATAL", "28000", text)).await;
    };
    if endpoint.tls_required && !stream.is_encrypted() {
        shared.failures.note(peer.ip(), &user, Refusal::NotEncrypted);
        let error =
            ErrorFields::new("FATAL", "28000", "this address takes encrypted connections only")
                .with_hint("Connect with sslmode=require, or better verify-full.");
        return refuse(&mut stream, &error).await;
    }
    let database = get("database").filter(|d| !d.is_empty()).unwrap_or(&user).to_owned();
    let mut out = BytesMut::new();
    let unknown: Vec<String> =
        params.iter().map(|(k, _)| k.clone()).filter(|k| k.starts_with("_pq_.")).collect();
    if minor > 0 || !unknown.is_empty() {
        backend::put_negotiate(&mut out, 0, &unknown);
    }
    let proven = authenticate(&mut stream, &mut buf, &mut out, &shared.users, &user).await?;
    let scram_keys = match proven {
        Ok(keys) => keys,
        Err(cause) => {
            tokio::time::sleep(shared.failures.note(peer.ip(), &user, cause)).await;
            let text = format!("password authentication failed for user \"{user}\"");
            return refuse(&mut stream, &ErrorFields::new("FATAL", "28P01", text)).await;
        }
    };
    // From here on it is one of the clients.
    place.leave();
    let Some(admission) = Admission::new(shared) else {
        let error = too_many(shared.config.limits.client_connections_max);
        return refuse(&mut stream, &error).await;
    };
    let passed = params
        .iter()
        .filter(|(k, _)| k != "user" && k != "database" && !k.starts_with("_pq_."))
        .cloned()
        .collect();
    let mut options = shared.connect_options(&endpoint);
    options.database.clone_from(&database);
    options.user.clone_from(&user);
    options.parameters = passed;
    options.password =
        shared.users.find(&user).and_then(|u| u.password.clone()).map(String::into_bytes);
    if options.password.is_none() {
        options.scram_keys = Some(scram_keys);
    }
    let (mut server, origin) = match shared.spare.connect(options).await {
        Ok(opened) => opened,
        Err(error) => {
            if let ConnectError::Refused { notices, error } = &error {
                stream.write_all(notices).await?;
                if error.sqlstate().starts_with("28") {
                    shared.failures.note(peer.ip(), &user, Refusal::RefusedByHome);
                }
            }
            return refuse(&mut stream, &explain(&endpoint, error)).await;
        }
    };
    let sockets = Sockets { client: stream.socket()?, home: server.stream.socket()? };
    let cancel =
        shared.cancels.register(server.cancel_key.clone(), sockets).map_err(io::Error::other)?;
    server.asking = Some(cancel.patience_with_home());
    welcome(&mut out, &server, cancel.pid(), cancel.key());
    stream.write_all(&out).await?;
    stream.flush().await?;
    let outbox = BytesMut::with_capacity(16 * 1024);
    let client = ClientSide { stream, inbox: buf, outbox, goodbye: cancel.goodbye().clone() };
    let session = Session::new(client, server, cancel, user, database, endpoint, shared.clone());
    Ok(Some((Session { origin, ..session }, admission)))
}

fn no_room(shared: &Shared) -> Option<ErrorFields> {
    if *shared.closing.borrow() {
        return Some(ErrorFields::new("FATAL", "57P03", "the gateway is shutting down"));
    }
    let max = shared.config.limits.client_connections_max;
    (shared.clients.load(Ordering::Relaxed) >= max).then(|| too_many(max))
}

fn too_many(max: usize) -> ErrorFields {
    ErrorFields::new("FATAL", "53300", "sorry, too many clients already")
        .with_hint(format!("The gateway takes limits.client_connections_max = {max} clients."))
}

async fn answer_tls(mut stream: Stream, shared: &Shared) -> io::Result<Stream> {
    match (stream, &shared.tls) {
        (Stream::Plain(mut tcp), Some(acceptor)) => {
            tcp.write_all(b"S").await?;
            let tls = acceptor.accept(tcp).await?;
            Ok(Stream::Tls(Box::new(TlsStream::Server(tls))))
        }
        (other, _) => {
            stream = other;
            stream.write_all(b"N").await?;
            Ok(stream)
        }
    }
}

async fn refuse<T>(stream: &mut Stream, error: &ErrorFields) -> io::Result<Option<T>> {
    let mut out = BytesMut::new();
    error.put(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    stream.shutdown().await?;
    Ok(None)
}

async fn message(stream: &mut Stream, buf: &mut BytesMut) -> io::Result<Option<Frame>> {
    loop {
        match frame::peek(buf) {
            Ok(Some((_, size))) if size > LOGIN_MESSAGE_BYTES_MAX => return Ok(None),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
        if let Ok(Some(frame)) = frame::take(buf) {
            return Ok(Some(frame));
        }
        if stream.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// SCRAM-SHA-256. `Ok(Err(…))`: not let in.
async fn authenticate(
    stream: &mut Stream,
    buf: &mut BytesMut,
    out: &mut BytesMut,
    users: &Users,
    user: &str,
) -> io::Result<Result<ClientKeys, Refusal>> {
    backend::put_authentication(out, 10, b"SCRAM-SHA-256\0\0");
    stream.write_all(out).await?;
    stream.flush().await?;
    out.clear();
    let Some(first) = message(stream, buf).await?.filter(|f| f.tag == b'p') else {
        return Ok(Err(Refusal::BadMessage));
    };
    let mut fields = frame::Fields::new(b'p', first.body());
    let mechanism = fields.text().unwrap_or_default();
    let initial = fields.value().ok().flatten().unwrap_or_default();
    let nonce = scram::nonce().map_err(io::Error::other)?;
    let exchange = (mechanism == "SCRAM-SHA-256")
        .then(|| scram::server_first(users.secret(user), &initial, &nonce))
        .flatten();
    let Some(exchange) = exchange else { return Ok(Err(Refusal::BadMessage)) };
    backend::put_authentication(out, 11, exchange.message().as_bytes());
    stream.write_all(out).await?;
    stream.flush().await?;
    out.clear();
    let Some(last) = message(stream, buf).await?.filter(|f| f.tag == b'p') else {
        return Ok(Err(Refusal::BadMessage));
    };
    let known = users.find(user).is_some();
    match exchange.finish(&last.body()) {
        Some(verified) if known => {
            backend::put_authentication(out, 12, verified.message.as_bytes());
            backend::put_authentication(out, 0, b"");
            Ok(Ok(verified.keys))
        }
        _ if known => Ok(Err(Refusal::WrongPassword)),
        _ => Ok(Err(Refusal::NoSuchUser)),
    }
}

fn welcome(out: &mut BytesMut, server: &ServerConnection, pid: i32, key: i32) {
    out.extend_from_slice(&server.notices.before_key);
    let mut parameters: Vec<_> = server.parameters.iter().collect();
    parameters.sort();
    for (name, value) in parameters {
        backend::put_parameter_status(out, name, value);
    }
    backend::put_key_data(out, pid, key);
    out.extend_from_slice(&server.notices.after_key);
    backend::put_ready(out, TransactionStatus::Idle);
}

/// PostgreSQL's own refusal word for word; else an error of class 08 that names the
/// server and never a secret.
fn explain(endpoint: &Endpoint, error: ConnectError) -> ErrorFields {
    match error {
        ConnectError::Refused { error, .. } => error,
        other => ErrorFields::new(
            "FATAL",
            "08001",
            format!("could not connect to server \"{}\"", endpoint.cluster),
        )
        .with_detail(other.to_string()),
    }
}

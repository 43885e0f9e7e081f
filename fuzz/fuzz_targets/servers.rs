//! A server that says whatever it likes, from its first byte on or once it has let us in:
//! the gateway's side of the connection ends without a panic, and keeps no more than its
//! limits.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pgspan_pool::{ConnectOptions, Reach, ServerConnection, SslMode, TcpLimits, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 2048;

/// What a server says that lets us in without a password: AuthenticationOk, two parameters,
/// BackendKeyData, ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\018.0\0\
    S\0\0\0\x23standard_conforming_strings\0on\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x07Z\0\0\0\x05I";

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    })
}

fuzz_target!(|data: &[u8]| {
    if let Some((welcome, said)) = data.split_first() {
        runtime().block_on(play(welcome % 2 == 1, said));
    }
});

async fn play(welcome: bool, said: &[u8]) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut startup = [0; 1024];
        let _came = stream.read(&mut startup).await;
        if welcome && stream.write_all(WELCOME).await.is_err() {
            return;
        }
        // Who does not listen any longer has hung up.
        let _hung_up = stream.write_all(said).await;
        let _hung_up = stream.shutdown().await;
        let _rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    };
    tokio::join!(server, client(port));
}

async fn client(port: u16) {
    let options = ConnectOptions {
        addresses: vec![("127.0.0.1".to_owned(), port)],
        database: "d".to_owned(),
        user: "u".to_owned(),
        password: Some(b"secret".to_vec()),
        scram_keys: None,
        parameters: Vec::new(),
        ssl_mode: SslMode::Disable,
        ssl_roots: None,
        reach: Reach::Anywhere,
        plain_password: true,
        message_bytes_max: MESSAGE_BYTES_MAX,
        tcp: TcpLimits::default(),
        timeout: Duration::from_secs(5),
        on_connect: String::new(),
    };
    if let Ok(mut server) = connect::connect(&options).await {
        use_it(&mut server).await;
        assert!(server.parameters.len() <= 64, "{}", server.parameters.len());
    }
}

/// A question of our own, then rows, then whatever else comes.
async fn use_it(server: &mut ServerConnection) {
    let _answer = server.simple("SELECT 1").await;
    loop {
        let rows = server.rows(|row| if row.len() > MESSAGE_BYTES_MAX { Err(()) } else { Ok(()) });
        assert!(rows.is_ok(), "a row that is longer than is kept");
        match server.received() {
            Ok(Some(frame)) => assert!(frame.raw.len() <= MESSAGE_BYTES_MAX),
            Ok(None) if server.fill().await.is_ok() => {}
            _ => return,
        }
    }
}

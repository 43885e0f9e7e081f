//! The delaying relay: it adds its round trip, keeps the bytes, passes the end
//! of a stream on, and does not throttle.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pgspan_lab::Address;
use pgspan_lab::relay::Relay;

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// A server that sends back what it gets, until the client has said all.
fn echo_server() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut writer).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
    address
}

fn through_relay() -> (Relay, TcpStream) {
    let relay = Relay::start(&Address::new("127.0.0.1", 0), &echo_server(), ROUND_TRIP).unwrap();
    let stream = TcpStream::connect(relay.address().to_string()).unwrap();
    stream.set_nodelay(true).unwrap();
    (relay, stream)
}

#[test]
fn each_exchange_costs_the_round_trip() {
    let (_relay, mut stream) = through_relay();
    for _ in 0..5 {
        let began = Instant::now();
        stream.write_all(b"ping").unwrap();
        let mut answer = [0_u8; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
        assert!(began.elapsed() >= ROUND_TRIP, "{:?}", began.elapsed());
    }
}

#[test]
fn bytes_arrive_in_order_and_the_end_is_passed_on() {
    let (_relay, mut stream) = through_relay();
    let sent: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
}

#[test]
fn a_server_that_is_down_closes_the_connection() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Address::new("127.0.0.1", listener.local_addr().unwrap().port())
    };
    let relay = Relay::start(&Address::new("127.0.0.1", 0), &closed, ROUND_TRIP).unwrap();
    let mut stream = TcpStream::connect(relay.address().to_string()).unwrap();
    let mut buffer = [0_u8; 1];
    assert!(matches!(stream.read(&mut buffer), Ok(0) | Err(_)));
}

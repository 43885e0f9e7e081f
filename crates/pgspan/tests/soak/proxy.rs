//! A proxy that breaks connections: cut, half a message, a stall, slow delivery.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Numbers from a seed (xorshift), so that a run can be repeated.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..10 {
            dice.below(2);
        }
        dice
    }

    /// One of so many.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// What all proxies of a run share.
#[derive(Debug, Default)]
pub struct Weather {
    /// Nothing is broken any more.
    pub calm: AtomicBool,
    /// Faults so far: cuts, half messages, stalls, slow stretches.
    pub faults: [AtomicU64; 4],
    /// Connections so far; also the next one's seed.
    pub connections: AtomicU64,
}

/// Listens on a free port and passes everything on to `target`, more or less.
/// `between` is how many bytes pass from one fault to the next, at most.
pub fn start(target: &str, weather: &Arc<Weather>, seed: u64, between: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, weather) = (target.to_owned(), Arc::clone(weather));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            let number = weather.connections.fetch_add(1, Ordering::Relaxed);
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            for (from, to, side) in [(&client, &server, 1), (&server, &client, 2)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let weather = Arc::clone(&weather);
                let dice = Dice::new(seed + number * 2 + side);
                std::thread::spawn(move || pass(from, to, &weather, dice, between));
            }
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, weather: &Weather, mut dice: Dice, between: u64) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = dice.below(between);
    let mut slow = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = &buffer[..count];
        if slow > 0 {
            slow -= 1;
            std::thread::sleep(Duration::from_millis(3));
        }
        if !weather.calm.load(Ordering::Relaxed) && left < count as u64 {
            left = dice.below(between);
            let kind = dice.below(4) as usize;
            weather.faults[kind].fetch_add(1, Ordering::Relaxed);
            match kind {
                0 => break,
                1 => {
                    bytes = &bytes[..count / 2];
                    let _ = to.write_all(bytes);
                    break;
                }
                2 => std::thread::sleep(Duration::from_millis(200 + dice.below(1500))),
                _ => slow = 200,
            }
        } else {
            left = left.saturating_sub(count as u64);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

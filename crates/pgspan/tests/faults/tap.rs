//! A proxy that holds one message of the gateway's back until it is told to go on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Messages with which a server begins something: Parse, Bind, Query.
const BEGINNINGS: &[u8] = b"PBQ";

#[derive(Debug, Default)]
struct State {
    /// So many beginnings pass before one is held; `None`: all pass.
    left: Option<usize>,
    held: bool,
}

/// What the proxies of a test share: one order of all the gateway's messages.
#[derive(Debug, Default, Clone)]
pub struct Tap(Arc<(Mutex<State>, Condvar)>);

impl Tap {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.0;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// The beginning behind so many others is held back.
    pub fn arm(&self, behind: usize) {
        self.change(|state| *state = State { left: Some(behind), held: false });
    }

    /// All pass.
    pub fn release(&self) {
        self.change(|state| *state = State::default());
    }

    /// Waits for a moment; whether something is held.
    pub fn is_held(&self, moment: Duration) -> bool {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(state, moment, |state| !state.held);
        waited.unwrap_or_else(PoisonError::into_inner).0.held
    }

    fn pass(&self, tag: u8) {
        if !BEGINNINGS.contains(&tag) {
            return;
        }
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.left {
            None => return,
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return;
            }
        }
        // The others of its connection wait behind it; those of other connections pass.
        if state.held {
            return;
        }
        state.held = true;
        changed.notify_all();
        let free = changed.wait_while(state, |state| state.held);
        drop(free.unwrap_or_else(PoisonError::into_inner));
    }

    /// Listens on a free port and passes everything on to `target`.
    pub fn listen(&self, target: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tap, target) = (self.clone(), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let tap = tap.clone();
                std::thread::spawn(move || {
                    let _ = tap.requests(&from, &to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || {
                    let _ = io::copy(&mut &server, &mut &client);
                    let _ = client.shutdown(Shutdown::Write);
                });
            }
        });
        address
    }

    fn requests(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut begun = false;
        loop {
            // What comes before the startup packet, and it, has no tag.
            let tag = if begun { 1 } else { 0 };
            let mut message = vec![0; tag + 4];
            from.read_exact(&mut message)?;
            let length = u32::from_be_bytes(message[tag..].try_into().unwrap_or_default());
            let mut body = vec![0; (length as usize).saturating_sub(4)];
            from.read_exact(&mut body)?;
            if begun {
                self.pass(message[0]);
            }
            begun |= body.starts_with(&196_608_u32.to_be_bytes());
            message.extend(body);
            to.write_all(&message)?;
        }
    }
}

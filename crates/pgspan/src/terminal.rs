//! Writing for people: colours on a terminal, plain text in a pipe.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Becomes true at the first Ctrl-C or SIGTERM after [`watch_signals`].
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM set [`INTERRUPTED`], so that what was started can
/// be stopped in order; a second one ends the process at once.
pub fn watch_signals() {
    extern "C" fn note(signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
        // SAFETY: signal is async-signal-safe.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic and calls signal.
        let before = unsafe { libc::signal(signal, handler) };
        if signal == libc::SIGHUP && before == libc::SIG_IGN {
            // Under nohup, the end of the terminal is to be survived.
            // SAFETY: as above.
            unsafe {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Writes a line to standard output; a reader that went away is not an error.
pub fn say(line: impl AsRef<str>) {
    let _ = writeln!(io::stdout().lock(), "{}", line.as_ref());
}

/// Writes a line to standard error.
pub fn note(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// Colours when standard output is a terminal and `NO_COLOR` is not set.
    pub fn for_stdout() -> Style {
        Style::when(io::stdout().is_terminal())
    }

    /// Colours when standard error is a terminal and `NO_COLOR` is not set.
    pub fn for_stderr() -> Style {
        Style::when(io::stderr().is_terminal())
    }

    fn when(terminal: bool) -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Style { colours: terminal && !refused && !dumb }
    }

    fn paint(self, code: &str, text: impl AsRef<str>) -> String {
        if self.colours {
            format!("\x1b[{code}m{}\x1b[0m", text.as_ref())
        } else {
            text.as_ref().to_string()
        }
    }

    /// A heading.
    pub fn bold(self, text: impl AsRef<str>) -> String {
        self.paint("1", text)
    }

    /// What is only there for reference.
    pub fn dim(self, text: impl AsRef<str>) -> String {
        self.paint("2", text)
    }

    /// What holds.
    pub fn green(self, text: impl AsRef<str>) -> String {
        self.paint("32", text)
    }

    /// What does not hold.
    pub fn red(self, text: impl AsRef<str>) -> String {
        self.paint("31", text)
    }

    /// What is to be typed.
    pub fn cyan(self, text: impl AsRef<str>) -> String {
        self.paint("36", text)
    }
}

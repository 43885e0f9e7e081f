//! The first packet of a connection: it has a length but no type byte.

use crate::WireError;
use crate::frame::Fields;
use bytes::{Buf, Bytes, BytesMut};

/// The longest startup packet accepted, in bytes (PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// What a connection opens with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// Asks for TLS; answered by one byte, `S` or `N`.
    Tls,
    /// Asks for GSSAPI encryption; answered by `N`.
    GssEncryption,
    /// Cancels what another session runs.
    Cancel {
        /// Process number of that session.
        pid: i32,
        /// Its secret.
        key: Bytes,
    },
    /// Opens a session.
    Session {
        /// Minor protocol version asked for (major is 3).
        minor: u16,
        /// Parameters: `user`, `database`, settings.
        params: Vec<(String, String)>,
    },
    /// A protocol version that is not spoken.
    UnsupportedVersion {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
}

/// Takes the first packet off `buf`, or `None` when it has not arrived whole.
///
/// # Errors
/// [`WireError`] when it cannot be a startup packet; the connection is to be closed.
pub fn take(buf: &mut BytesMut) -> Result<Option<Startup>, WireError> {
    let Some(head) = buf.get(..4) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let size = usize::try_from(length).ok().filter(|n| (8..=STARTUP_BYTES_MAX).contains(n));
    let Some(size) = size else {
        return Err(WireError::Length { tag: None, length: i64::from(length) });
    };
    if buf.len() < size {
        return Ok(None);
    }
    let mut body = buf.split_to(size).freeze();
    body.advance(4);
    let code = body.get_u32();
    let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
    match code {
        80_877_103 => Ok(Some(Startup::Tls)),
        80_877_104 => Ok(Some(Startup::GssEncryption)),
        80_877_102 => {
            let mut f = Fields::new(b'X', body);
            let pid = f.i32()?;
            Ok(Some(Startup::Cancel { pid, key: f.rest() }))
        }
        _ if major == 3 => {
            let mut f = Fields::new(b'0', body);
            let mut params = Vec::new();
            loop {
                let name = f.text()?;
                if name.is_empty() {
                    break;
                }
                params.push((name, f.text()?));
            }
            Ok(Some(Startup::Session { minor, params }))
        }
        _ => Ok(Some(Startup::UnsupportedVersion { major, minor })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert!(take(&mut http).is_err());
        let mut short = BytesMut::from(&[0u8, 0, 0, 4][..]);
        assert!(take(&mut short).is_err());
    }

    #[test]
    fn a_session_is_read() {
        let mut buf = BytesMut::new();
        crate::frontend::startup(&mut buf, &[("user", "u"), ("database", "d")]);
        let Some(Startup::Session { minor: 0, params }) = take(&mut buf).unwrap() else {
            unreachable!()
        };
        assert_eq!(params[1], ("database".to_owned(), "d".to_owned()));
    }
}

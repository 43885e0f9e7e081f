//! Files that the configuration names: read at the start, whole, and never again by a
//! session. No other file is read.

use std::io;
use std::path::Path;

/// Bytes of a file that holds users, certificates or a key.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads a file, which must be a regular one: a device or a pipe may never end.
///
/// # Errors
/// With the file's name: it cannot be read, is no regular file, or is too long.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let about = std::fs::metadata(path).map_err(named)?;
    let wrong = if !about.is_file() {
        Some("it is not a regular file".to_owned())
    } else if about.len() > BYTES_MAX {
        Some(format!("it is longer than {BYTES_MAX} bytes"))
    } else {
        None
    };
    match wrong {
        Some(what) => Err(named(io::Error::new(io::ErrorKind::InvalidInput, what))),
        None => std::fs::read(path).map_err(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        for path in ["/dev/zero", "/", "/nothing/here"] {
            let error = read(Path::new(path)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with(path), "{error}");
        }
    }
}

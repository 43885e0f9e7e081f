//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL manual, section "SASL
//! Authentication"): the server's side, and the client's for who has the keys but not the
//! password. Channel binding is not offered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// PostgreSQL's default iteration count.
pub const ITERATIONS: u32 = 4096;

/// Length of PostgreSQL's salts.
pub const SALT_BYTES: usize = 16;

/// What a server keeps instead of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// PBKDF2 iterations.
    pub iterations: u32,
    /// Salt, raw bytes.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub stored_key: [u8; 32],
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn mac(key: &[u8], data: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length, so this cannot fail.
    let Ok(mut m) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    m.update(data);
    m.finalize().into_bytes().into()
}

fn xor(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

impl Secret {
    /// Derives the secret of a plain password. As in PostgreSQL, a password that
    /// SASLprep refuses is used as it is.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Secret {
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0u8; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut salted);
        let client_key = mac(&salted, b"Client Key");
        Secret {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// What stands for the secret of a name that nobody has: it is the same for the same name,
    /// and no proof fits it. As in PostgreSQL (`mock_scram_secret`), its salt is a keyed hash of
    /// the name, so that only who knows `key` can tell it from a drawn one, and no key is
    /// derived, as none is for a stored secret.
    pub fn mock(key: &[u8; 32], name: &str, iterations: u32) -> Secret {
        let [stored_key, server_key] = [b"StoredKey\0", b"ServerKey\0"]
            .map(|of| mac(key, &[of.as_slice(), name.as_bytes()].concat()));
        let salt = mac(key, &[b"Salt\0", name.as_bytes()].concat());
        Secret { iterations, salt: salt[..SALT_BYTES].to_vec(), stored_key, server_key }
    }

    /// Reads PostgreSQL's stored form, `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub fn parse(text: &str) -> Option<Secret> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        Some(Secret {
            iterations: iterations.parse().ok()?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored).ok()?.try_into().ok()?,
            server_key: BASE64.decode(server).ok()?.try_into().ok()?,
        })
    }
}

/// What a client's proof tells of a password: enough to prove it to a server that keeps
/// the same secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientKeys {
    iterations: u32,
    salt: Vec<u8>,
    client_key: [u8; 32],
    server_key: [u8; 32],
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}

/// The client's side of an exchange with such keys.
pub struct KeyExchange {
    keys: ClientKeys,
    nonce: String,
    auth: String,
    same_secret: bool,
}

impl KeyExchange {
    /// `nonce` must be fresh random printable text.
    pub fn new(keys: ClientKeys, nonce: String) -> KeyExchange {
        KeyExchange { keys, nonce, auth: String::new(), same_secret: true }
    }

    /// Whether the server, as far as it has said, keeps the secret that the keys are of.
    pub fn same_secret(&self) -> bool {
        self.same_secret
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare())
    }

    fn first_bare(&self) -> String {
        // PostgreSQL takes the user from the startup packet.
        format!("n=,r={}", self.nonce)
    }

    /// The client's final message. `None`: the server's first one is malformed. To a server
    /// that keeps another secret, or none, it proves nothing: the server says what it says
    /// to everybody whom it does not let in.
    pub fn last(&mut self, server_first: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(server_first).ok()?;
        let mut parts = text.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations: u32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return None;
        }
        self.same_secret = salt == self.keys.salt && iterations == self.keys.iterations;
        let without_proof = format!("c={},r={nonce}", BASE64.encode("n,,"));
        self.auth = format!("{},{text},{without_proof}", self.first_bare());
        let stored: [u8; 32] = Sha256::digest(self.keys.client_key).into();
        let proof = xor(self.keys.client_key, mac(&stored, self.auth.as_bytes()));
        Some(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Whether the server has shown that it knows the secret.
    pub fn is_verified(&self, server_last: &[u8]) -> bool {
        let signature = mac(&self.keys.server_key, self.auth.as_bytes());
        !self.auth.is_empty() && server_last == format!("v={}", BASE64.encode(signature)).as_bytes()
    }
}

/// A client's proof that was right.
pub struct Verified {
    /// The server's final message.
    pub message: String,
    /// What the proof told.
    pub keys: ClientKeys,
}

/// The exchange after the client's first message has been answered.
pub struct ServerExchange {
    secret: Secret,
    client_first_bare: String,
    server_first: String,
    nonce: String,
    gs2_header: String,
}

/// Reads the client's first message and gives the exchange with the server's first.
/// `server_nonce` must be fresh random printable text. `None`: the message is malformed.
pub fn server_first(
    secret: Secret,
    client_first: &[u8],
    server_nonce: &str,
) -> Option<ServerExchange> {
    let text = std::str::from_utf8(client_first).ok()?;
    // gs2 header: "n,," or "y,,": no channel binding, optional authzid that must be empty.
    let bare = text.strip_prefix("n,,").or_else(|| text.strip_prefix("y,,"))?;
    let gs2_header = text[..3].to_owned();
    let client_nonce = bare.split(',').find_map(|p| p.strip_prefix("r="))?;
    let nonce = format!("{client_nonce}{server_nonce}");
    let server_first =
        format!("r={nonce},s={},i={}", BASE64.encode(&secret.salt), secret.iterations);
    Some(ServerExchange {
        secret,
        client_first_bare: bare.to_owned(),
        server_first,
        nonce,
        gs2_header,
    })
}

impl ServerExchange {
    /// The server's first message.
    pub fn message(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's final message. `None`: the proof is wrong.
    pub fn finish(&self, client_final: &[u8]) -> Option<Verified> {
        let text = std::str::from_utf8(client_final).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let binding = parts.next()?.strip_prefix("c=")?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        if nonce != self.nonce || BASE64.decode(binding).ok()? != self.gs2_header.as_bytes() {
            return None;
        }
        let proof: [u8; 32] = BASE64.decode(proof).ok()?.try_into().ok()?;
        let auth = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let client_key = xor(proof, mac(&self.secret.stored_key, auth.as_bytes()));
        let stored: [u8; 32] = Sha256::digest(client_key).into();
        // Constant time: every byte is looked at.
        let differ = stored.iter().zip(self.secret.stored_key).fold(0u8, |d, (a, b)| d | (a ^ b));
        if differ != 0 {
            return None;
        }
        let signature = mac(&self.secret.server_key, auth.as_bytes());
        let Secret { iterations, salt, server_key, .. } = self.secret.clone();
        let keys = ClientKeys { iterations, salt, client_key, server_key };
        Some(Verified { message: format!("v={}", BASE64.encode(signature)), keys })
    }
}

/// Fresh random printable text of 24 characters, for nonces.
///
/// # Errors
/// When the system has no randomness to give.
pub fn nonce() -> Result<String, getrandom::Error> {
    let mut raw = [0u8; 18];
    getrandom::fill(&mut raw)?;
    Ok(BASE64.encode(raw))
}

/// `N` fresh random bytes, for salts and cancel keys.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut raw = [0u8; N];
    getrandom::fill(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    fn exchange(password: &str) -> bool {
        let secret = Secret::from_password("pencil", b"0123456789abcdef", ITERATIONS);
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let server = server_first(secret, client.message(), &nonce().unwrap()).unwrap();
        client.update(server.message().as_bytes()).unwrap();
        match server.finish(client.message()) {
            Some(last) => client.finish(last.message.as_bytes()).is_ok(),
            None => false,
        }
    }

    /// The keys that a client's proof of `password` tells.
    fn keys(secret: &Secret, password: &str) -> ClientKeys {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let server = server_first(secret.clone(), client.message(), "nonce").unwrap();
        client.update(server.message().as_bytes()).unwrap();
        server.finish(client.message()).unwrap().keys
    }

    #[test]
    fn keys_open_what_keeps_the_same_secret() {
        let secret = Secret::from_password("pencil", b"0123456789abcdef", ITERATIONS);
        let keys = keys(&secret, "pencil");
        let exchange = |kept: &Secret| {
            let mut client = KeyExchange::new(keys.clone(), nonce().unwrap());
            let server = server_first(kept.clone(), client.first().as_bytes(), "more").unwrap();
            let last = client.last(server.message().as_bytes())?;
            let verified = server.finish(last.as_bytes())?;
            Some(client.is_verified(verified.message.as_bytes()))
        };
        assert_eq!(exchange(&secret), Some(true));
        let salted = Secret::from_password("pencil", b"another salt 123", ITERATIONS);
        assert_eq!(exchange(&salted), None);
        let hardened = Secret::from_password("pencil", b"0123456789abcdef", 2 * ITERATIONS);
        assert_eq!(exchange(&hardened), None);
        let other = Secret::from_password("pen", b"0123456789abcdef", ITERATIONS);
        assert_eq!(exchange(&other), None);
        // A server that lets everybody in without knowing the secret.
        let mut client = KeyExchange::new(keys, "n".to_owned());
        assert!(!client.is_verified(b"v="));
        let server = server_first(secret, client.first().as_bytes(), "more").unwrap();
        client.last(server.message().as_bytes()).unwrap();
        assert!(!client.is_verified(b"v=AAAA"));
    }

    #[test]
    fn the_right_password_passes_and_a_wrong_one_does_not() {
        assert!(exchange("pencil"));
        assert!(!exchange("pen"));
    }

    #[test]
    fn postgresqls_stored_form_is_read() {
        let text = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(Secret::parse(text).unwrap().salt, b"0123456789abcdef");
        assert!(Secret::parse("md5abc").is_none());
    }
}

//! Who may come in: users and secrets, in the format of PgBouncer's `auth_file`
//! (`"user" "secret"` a line; the secret is a plain password or PostgreSQL's stored
//! SCRAM form; `""` inside stands for a quote; `;` starts a comment).

use pgspan_wire::scram::{self, Secret};
use std::collections::HashMap;

/// One user.
#[derive(Clone)]
pub struct User {
    /// What clients are checked against.
    pub secret: Secret,
    /// The plain password, when it is known: it opens the server connection. Without it
    /// what the client's proof tells does.
    pub password: Option<String>,
}

/// All users.
#[derive(Clone, Default)]
pub struct Users {
    users: HashMap<String, User>,
    /// What the secrets of unknown names are made of.
    mock_key: [u8; 32],
    /// Iterations of most secrets, and so of the unknown names'.
    iterations: u32,
}

impl Users {
    /// Reads the list.
    ///
    /// # Errors
    /// A text that names the line but never the secret.
    pub fn parse(text: &str) -> Result<Users, String> {
        let mut users = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(';') || line.starts_with('#') {
                continue;
            }
            let wrong = || format!("auth file, line {}: expected \"user\" \"secret\"", i + 1);
            let (name, rest) = quoted(line).ok_or_else(wrong)?;
            let (secret, _) = quoted(rest.trim_start()).ok_or_else(wrong)?;
            let user = match Secret::parse(&secret) {
                Some(stored) => User { secret: stored, password: None },
                None if secret.starts_with("md5") && secret.len() == 35 => {
                    return Err(format!(
                        "auth file, line {}: md5 secrets are not supported; \
                         give the password or its SCRAM-SHA-256 form",
                        i + 1
                    ));
                }
                None if secret.starts_with("SCRAM-SHA-256$") => {
                    return Err(format!(
                        "auth file, line {}: malformed SCRAM secret; copy it whole from \
                         pg_authid.rolpassword",
                        i + 1
                    ));
                }
                None => {
                    let salt: [u8; scram::SALT_BYTES] =
                        scram::random().map_err(|e| e.to_string())?;
                    User {
                        secret: Secret::from_password(&secret, &salt, scram::ITERATIONS),
                        password: Some(secret),
                    }
                }
            };
            users.insert(name, user);
        }
        let mut counts: HashMap<u32, usize> = HashMap::new();
        users.values().for_each(|u: &User| *counts.entry(u.secret.iterations).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(iterations, count)| (*count, *iterations));
        let iterations = most.map_or(scram::ITERATIONS, |(iterations, _)| iterations);
        let mock_key = scram::random().map_err(|e| e.to_string())?;
        Ok(Users { users, mock_key, iterations })
    }

    /// The user of this name.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// What a name is checked against: nobody sees whether there is such a user.
    pub fn secret(&self, name: &str) -> Secret {
        match self.find(name) {
            Some(user) => user.secret.clone(),
            None => Secret::mock(&self.mock_key, name, self.iterations),
        }
    }
}

/// Takes one quoted word; `""` stands for a quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = String::new();
    loop {
        let end = rest.find('"')?;
        out.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => return Some((out, rest)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pgbouncers_format_is_read() {
        let u = Users::parse("; comment\n\"a\"\"b\" \"p w\"\n\n\"c\" \"x\"\n").unwrap();
        assert_eq!(u.find("a\"b").and_then(|u| u.password.as_deref()), Some("p w"));
        assert_eq!(u.len(), 2);
    }

    #[test]
    fn a_name_that_is_unknown_looks_like_a_known_one() {
        let stored = Secret::from_password("x", &[7; scram::SALT_BYTES], 10_000);
        let users = Users::parse("\"a\" \"p\"\n\"b\" \"q\"\n").unwrap();
        let (known, unknown) = (users.secret("a"), users.secret("nobody"));
        assert_eq!(known.salt.len(), unknown.salt.len());
        assert_eq!(known.iterations, unknown.iterations);
        assert!(users.secret("nobody") == unknown && users.secret("a") == known);
        assert!(users.secret("nobody2").salt != unknown.salt && stored != unknown);
        // Another start draws another key, as it draws other salts.
        let again = Users::parse("\"a\" \"p\"\n\"b\" \"q\"\n").unwrap();
        assert!(again.secret("nobody") != unknown && again.secret("a") != known);
    }

    #[test]
    fn errors_name_the_line_and_not_the_secret() {
        let e = Users::parse("\"a\" \"ok\"\n\"b\" hunter2\n").err().unwrap();
        assert!(e.contains("line 2") && !e.contains("hunter2"));
        assert!(Users::parse(&format!("\"a\" \"md5{}\"", "0".repeat(32))).is_err());
        let cut = Users::parse("\"a\" \"SCRAM-SHA-256$4096:c2Fs\"").err().unwrap();
        assert!(cut.contains("malformed") && !cut.contains("c2Fs"));
    }
}

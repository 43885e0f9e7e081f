//! Who may come in, where the gateway goes for whom, and what it shows to whom.

use std::path::Path;
use std::time::{Duration, Instant};

use pgspan_lab::{Lab, LabOptions, Server};

use crate::client::{Client, Fault, dial, message, startup};
use crate::stand::{serve, start_gateway};

const APP: (&str, &str) = ("app", "app-secret-3");
const OTHER: (&str, &str) = ("other", "other-secret-4");

/// A lab with two users that are no superusers.
struct Stage {
    lab: Lab,
    gateway: String,
    home: Server,
    source: Server,
}

impl Stage {
    fn new() -> Stage {
        let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
        let home = lab.server("users-writer").unwrap().clone();
        let source = lab.server("orders-writer").unwrap().clone();
        for (server, database) in [(&home, "usersdb"), (&source, "ordersdb")] {
            for (role, password) in [APP, OTHER] {
                let sql = format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'");
                lab.psql(server, database, &sql).unwrap();
            }
        }
        lab.psql(
            &source,
            "ordersdb",
            "CREATE TABLE words AS SELECT g AS id, 'w' || g AS word FROM generate_series(1, 9) g;
             GRANT SELECT ON words TO PUBLIC",
        )
        .unwrap();
        lab.psql(&home, "usersdb", "CREATE EXTENSION postgres_fdw; CREATE TABLE here (id int)")
            .unwrap();
        let program = env!("CARGO_BIN_EXE_pgspan").as_ref();
        let gateway = start_gateway(&mut lab, program, &[], |lab, _| {
            let file = lab.state().dir.join("userlist.txt");
            let mut text = std::fs::read_to_string(&file).unwrap();
            for (role, password) in [APP, OTHER] {
                text.push_str(&format!("\"{role}\" \"{password}\"\n"));
            }
            std::fs::write(file, text).unwrap();
        });
        Stage { lab, gateway, home, source }
    }

    fn at_home(&self, sql: &str) -> String {
        self.lab.psql(&self.home, "usersdb", sql).unwrap().trim().to_owned()
    }

    fn connect(&self, (role, password): (&str, &str)) -> Client {
        Client::connect(&self.gateway, role, password, "usersdb").unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.lab.state().dir.join("logs/gateway.log")).unwrap()
    }

    /// A server with a table `words` of the same name, for everybody.
    fn serve_words(&self, name: &str, options: &str) {
        let link = &self.source.link;
        let (role, password) = APP;
        self.at_home(&format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw
               OPTIONS (host '{}', port '{}', dbname 'ordersdb'{options});
             CREATE USER MAPPING FOR app SERVER {name}
               OPTIONS (user '{role}', password '{password}');
             CREATE USER MAPPING FOR other SERVER {name}
               OPTIONS (user '{role}', password '{password}');
             GRANT USAGE ON FOREIGN SERVER {name} TO PUBLIC;
             CREATE FOREIGN TABLE words_{name} (id int, word text) SERVER {name}
               OPTIONS (table_name 'words');
             GRANT SELECT ON words_{name}, here TO PUBLIC",
            link.host, link.port,
        ));
        // The gateway learns of its name.
        let mut client = self.connect(APP);
        client.query("CREATE TEMP TABLE t (a int); ALTER TABLE t ADD b int");
    }
}

/// The rows of a SHOW, each as all its columns' text.
fn last_route(client: &mut Client) -> String {
    client.value("SHOW pgspan.last_route")
}

#[test]
fn no_session_has_the_gateway_read_a_file() {
    let stage = Stage::new();
    let secret = stage.lab.state().dir.join("userlist.txt");
    let files = ["/dev/zero", "/dev/urandom", "/nothing/here", secret.to_str().unwrap()];
    for (at, file) in files.iter().enumerate() {
        stage.serve_words(&format!("f{at}"), &format!(", sslmode 'require', sslrootcert '{file}'"));
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut told = Vec::new();
    for at in 0..files.len() {
        let mut client = stage.connect(APP);
        let began = Instant::now();
        // Home tries by itself: what it says is PostgreSQL's.
        let answer = client.query(&format!("SELECT count(*) FROM words_f{at}"));
        assert_eq!(answer.code(), "08001", "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        told.push(last_route(&mut client));
    }
    // Whether a file is there shows nowhere.
    assert!(told.iter().all(|t| *t == "fallback"), "{told:?}");
    assert_eq!(stage.connect(OTHER).value("SELECT 1"), "1");
    stage.lab.stop().unwrap();
}

/// What the gateway says first to a user: its salt and iterations, and how long it took.
fn challenge(address: &str, user: &str) -> (String, Duration) {
    let mut client = Client::over(dial(address).unwrap(), address);
    client.send(&startup(user, "usersdb")).unwrap();
    let (tag, _) = client.next().unwrap();
    assert_eq!(tag, b'R');
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let mut body = b"SCRAM-SHA-256\0".to_vec();
    body.extend((first.len() as u32).to_be_bytes());
    body.extend(first);
    let began = Instant::now();
    client.send(&message(b'p', &body)).unwrap();
    let (_, body) = client.next().unwrap();
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&body[4..]).into_owned();
    let (_, salt) = text.split_once(",s=").unwrap();
    (salt.to_owned(), took)
}

#[test]
fn nobody_learns_which_users_exist() {
    let stage = Stage::new();
    let names = ["postgres", "app", "nobody", "nobody2", "App"];
    let mut salts = Vec::new();
    let mut best = Vec::new();
    for name in names {
        let rounds: Vec<_> = (0..40).map(|_| challenge(&stage.gateway, name)).collect();
        assert!(rounds.iter().all(|(salt, _)| *salt == rounds[0].0), "{name}: {rounds:?}");
        salts.push(rounds[0].0.clone());
        best.push(rounds.iter().map(|(_, took)| *took).min().unwrap());
    }
    // All look alike, and each is its own.
    let shape = |salt: &String| (salt.len(), salt.split(",i=").nth(1).map(str::to_owned));
    assert!(salts.iter().all(|salt| shape(salt) == shape(&salts[0])), "{salts:?}");
    let mut distinct = salts.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), names.len(), "{salts:?}");
    // Deriving a key takes more than half a millisecond; the best of forty is without noise.
    let (least, most) = (best.iter().min().unwrap(), best.iter().max().unwrap());
    assert!(*most < *least + Duration::from_micros(400), "{best:?}");
    stage.lab.stop().unwrap();
}

#[test]
fn who_is_not_let_in_stands_in_the_log() {
    let stage = Stage::new();
    let refused = |user: &str| -> Fault {
        Client::connect(&stage.gateway, user, "not-this-secret", "usersdb").err().unwrap()
    };
    assert_eq!(refused("app").code, "28P01");
    assert_eq!(refused("no\nbody").code, "28P01");
    let log = stage.log();
    let line = |part: &str| log.lines().any(|l| l.contains("login failed") && l.contains(part));
    assert!(line("user=\"app\" cause=\"wrong password\""), "{log}");
    assert!(line("user=\"no\\nbody\" cause=\"no such user"), "{log}");
    assert!(line("peer=127.") && !log.contains("not-this-secret"), "{log}");
    // Who goes on waits longer and longer.
    let waits: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            refused("app");
            began.elapsed()
        })
        .collect();
    assert!(waits[4] >= Duration::from_millis(400), "{waits:?}");
    // A right password is never kept waiting.
    assert_eq!(stage.connect(APP).value("SELECT 1"), "1");
    stage.lab.stop().unwrap();
}

#[test]
fn everybody_sees_what_is_their_own() {
    let stage = Stage::new();
    stage.serve_words("src", "");
    std::thread::sleep(Duration::from_millis(300));
    let mut app = stage.connect(APP);
    let crossing = "SELECT count(*) FROM here JOIN words_src USING (id)";
    assert_eq!(app.value(crossing), "0");
    assert_eq!(last_route(&mut app), "home_join");
    let all = |client: &mut Client, table: &str| {
        let answer = client.query(&format!("SHOW pgspan.{table}"));
        assert_eq!(answer.code(), "ok", "{answer:?}");
        answer.rows
    };
    let mut other = stage.connect(OTHER);
    assert_eq!(all(&mut other, "servers"), [""; 0]);
    assert!(!all(&mut other, "routes").contains(&"home_join".to_owned()));
    assert_eq!(all(&mut app, "servers").len(), 1);
    assert!(all(&mut app, "routes").contains(&"home_join".to_owned()));
    // In a block too, and not in one that has failed.
    stage.at_home("GRANT pg_monitor TO other");
    for sql in ["SELECT 1", "BEGIN"] {
        assert_eq!(other.query(sql).code(), "ok");
        assert_eq!(all(&mut other, "servers").len(), 1);
        assert!(all(&mut other, "routes").contains(&"home_join".to_owned()));
    }
    other.query("SELECT nothing");
    assert_eq!(other.query("SHOW pgspan.servers").code(), "25P02");
    assert_eq!(other.query("ROLLBACK").code(), "ok");
    stage.lab.stop().unwrap();
}

#[test]
fn no_encoding_reads_a_quote_into_the_gateways_literals() {
    let stage = Stage::new();
    // Its second byte in UTF-8 and the backslash are one character in GBK.
    let name = "\u{4e2d}\u{fffd}\\'; CREATE TABLE broken_in (a int); --";
    let quoted = name.replace('"', "\"\"");
    stage.at_home(&format!(
        "CREATE SERVER \"{quoted}\" FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');
         CREATE FOREIGN TABLE odd (id int) SERVER \"{quoted}\";
         ALTER ROLE postgres SET backslash_quote = 'on';
         CREATE USER MAPPING FOR postgres SERVER \"{quoted}\""
    ));
    let password = stage.lab.state().password.clone();
    let mut client = stage.connect(("postgres", &password));
    client.query("CREATE TEMP TABLE t (a int); ALTER TABLE t ADD b int");
    std::thread::sleep(Duration::from_millis(300));
    for encoding in ["UTF8", "GBK", "BIG5", "SJIS"] {
        client.query(&format!("SET client_encoding = '{encoding}'"));
        client.query("SELECT count(*) FROM odd");
        let answer = client.query("SHOW pgspan.last_route");
        // What the encoding does not have is home's to refuse.
        assert!(["ok", "22P05"].contains(&answer.code()), "{encoding}: {answer:?}");
        let answer = client.query("SHOW pgspan.servers");
        assert_eq!(answer.code(), "ok", "{encoding}: {answer:?}");
    }
    assert_eq!(stage.at_home("SELECT to_regclass('broken_in') IS NULL"), "t");
    stage.lab.stop().unwrap();
}

#[test]
fn a_password_goes_nowhere_in_clear_text() {
    let mut stage = Stage::new();
    let rules = stage.home.data.join("pg_hba.conf");
    let before = std::fs::read_to_string(&rules).unwrap();
    let refused = |stage: &Stage| Client::connect(&stage.gateway, APP.0, APP.1, "usersdb").err();
    for method in ["password", "md5"] {
        // A role's MD5 secret makes the server ask by MD5.
        if method == "md5" {
            stage
                .at_home("SET password_encryption = 'md5'; ALTER ROLE app PASSWORD 'app-secret-3'");
        }
        let rule = format!("host all app all {method}\n{before}");
        std::fs::write(&rules, rule).unwrap();
        stage.at_home("SELECT pg_reload_conf()");
        std::thread::sleep(Duration::from_millis(300));
        let fault = refused(&stage).unwrap();
        assert_eq!(fault.code, "08001", "{fault:?}");
        assert!(fault.detail.contains("gateway.plain_passwords"), "{fault:?}");
    }
    // Who allows it has it.
    let gateway = stage.lab.state().gateway.clone().unwrap();
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let allowed = text.replace("[gateway]\n", "[gateway]\nplain_passwords = true\n");
    std::fs::write(&gateway.config, allowed).unwrap();
    stage.lab.stop_helper("gateway").unwrap();
    serve(&mut stage.lab, Path::new(env!("CARGO_BIN_EXE_pgspan")), &gateway);
    assert!(refused(&stage).is_none());
    stage.lab.stop().unwrap();
}

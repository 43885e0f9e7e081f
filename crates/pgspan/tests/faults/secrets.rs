//! An auth file that holds PostgreSQL's stored secrets and no passwords.

use pgspan_lab::{Lab, LabOptions};

use crate::client::Client;
use crate::stand::start_gateway;

#[test]
fn stored_secrets_open_home() {
    let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
    let home = lab.server("users-writer").unwrap().clone();
    let ask = |lab: &Lab, sql: &str| lab.psql(&home, "usersdb", sql).unwrap().trim().to_owned();
    ask(&lab, "CREATE ROLE app LOGIN PASSWORD 'app-secret-3'");
    ask(&lab, "CREATE ROLE other LOGIN PASSWORD 'other-secret-4'");
    let secret = |lab: &Lab, role: &str| {
        ask(lab, &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"))
    };
    let (app, other) = (secret(&lab, "app"), secret(&lab, "other"));
    assert!(app.starts_with("SCRAM-SHA-256$"), "{app}");
    // The same password under another salt.
    ask(&lab, "ALTER ROLE other PASSWORD 'other-secret-4'");
    let gateway = start_gateway(&mut lab, env!("CARGO_BIN_EXE_pgspan").as_ref(), &[], |lab, _| {
        let file = lab.state().dir.join("userlist.txt");
        std::fs::write(file, format!("\"app\" \"{app}\"\n\"other\" \"{other}\"\n")).unwrap();
    });
    let connect = |role, password| Client::connect(&gateway, role, password, "usersdb");

    for _ in 0..2 {
        let mut client = connect("app", "app-secret-3").unwrap();
        assert_eq!(client.value("SELECT current_user"), "app");
    }
    let wrong = connect("app", "app-secret-4").err().unwrap();
    assert_eq!(wrong.code, "28P01", "{wrong:?}");

    // The gateway lets it in; what home says is home's word.
    let salted = connect("other", "other-secret-4").err().unwrap();
    assert_eq!(salted.code, "28P01", "{salted:?}");
    assert_eq!(salted.message, "password authentication failed for user \"other\"");
    ask(&lab, "ALTER ROLE app VALID UNTIL '2001-01-01'");
    let expired = connect("app", "app-secret-3").err().unwrap();
    assert_eq!(expired.code, "28P01", "{expired:?}");
    let log = std::fs::read_to_string(lab.state().dir.join("logs/gateway.log")).unwrap();
    assert!(log.contains("another SCRAM secret"), "{log}");
    assert!(!log.contains("SCRAM-SHA-256$") && !log.contains("app-secret"), "{log}");
    lab.stop().unwrap();
}

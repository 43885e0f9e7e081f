//! TLS on every link: clients to the gateway, the gateway to home and to the source.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pgspan_lab::{Address, GatewayOptions, Lab, LabOptions, Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Certificates as PEM files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    root: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Not the name of what it issues, which would make that look self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let root = dir.join(format!("{name}.pem"));
        std::fs::write(&root, issuer.pem()).unwrap();
        Authority { issuer, root }
    }

    /// A certificate for `host` and its key.
    fn issue(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Has a server of the lab take TLS.
fn equip(lab: &Lab, server: &Server, authority: &Authority) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let (certificate, key) = authority.issue(&server.address.host);
    let owner = std::fs::metadata(&server.data).unwrap();
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        let path = server.data.join(name);
        std::fs::write(&path, text).unwrap();
        // PostgreSQL refuses a key that others may read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    for sql in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        lab.psql(server, &server.database, sql).unwrap();
    }
    let on = || lab.psql(server, &server.database, "SHOW ssl").unwrap().trim() == "on";
    for _ in 0..100 {
        if on() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(on(), "{} does not take TLS", server.name);
}

/// psql through the gateway, with settings of libpq's.
fn psql(lab: &Lab, gateway: &Address, tls: &[(&str, &str)], sql: &str) -> Output {
    psql_all(lab, gateway, tls, &[sql])
}

/// As [`psql`], for several commands of one session.
fn psql_all(lab: &Lab, gateway: &Address, tls: &[(&str, &str)], commands: &[&str]) -> Output {
    let state = lab.state();
    Command::new(state.postgres_bin.join("psql"))
        .args(["-X", "-w", "-At", "-v", "ON_ERROR_STOP=1", "-U", &state.user, "-d", "usersdb"])
        .args(["-h", &gateway.host, "-p", &gateway.port.to_string()])
        .args(commands.iter().flat_map(|sql| ["-c", sql]))
        .env("PGPASSWORD", &state.password)
        .envs(tls.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn says(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

fn complains(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Whether the connection that runs it is encrypted.
const SEEN: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[test]
fn every_link_is_encrypted_and_checked() {
    let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
    let dir = lab.state().dir.clone();
    let (ours, others) = (Authority::new(&dir, "ours"), Authority::new(&dir, "others"));
    let (home, source) =
        (lab.server("users-writer").unwrap().clone(), lab.server("orders-writer").unwrap().clone());
    equip(&lab, &home, &ours);
    equip(&lab, &source, &ours);
    lab.psql(&source, "ordersdb", "CREATE TABLE words AS SELECT 'one' AS word").unwrap();
    let root = |authority: &Authority| authority.root.display().to_string();
    lab.psql(
        &home,
        "usersdb",
        &format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', port '{}',
               dbname 'ordersdb', sslmode 'verify-full', sslrootcert '{}');
             CREATE USER MAPPING FOR postgres SERVER src
               OPTIONS (user 'postgres', password '{password}');
             CREATE FOREIGN TABLE words (word text) SERVER src;
             CREATE SERVER doubtful FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}',
               port '{}', dbname 'ordersdb', sslmode 'verify-full', sslrootcert '{}');
             CREATE USER MAPPING FOR postgres SERVER doubtful
               OPTIONS (user 'postgres', password '{password}');
             CREATE FOREIGN TABLE doubtful (word text) SERVER doubtful
               OPTIONS (table_name 'words');
             CREATE TABLE here AS SELECT 1 AS n",
            source.link.host,
            source.link.port,
            root(&ours),
            source.link.host,
            source.link.port,
            root(&others),
            password = lab.state().password,
        ),
    )
    .unwrap();

    // The gateway's own certificate is for the address that its clients know.
    let mut options = GatewayOptions::new(env!("CARGO_BIN_EXE_pgspan"));
    let plain = lab.start_gateway(&options, &mut |_| {}).unwrap();
    let host = plain.endpoint("users-writer").unwrap().address.host.clone();
    let refusal = complains(&psql(
        &lab,
        &plain.endpoint("users-writer").unwrap().address,
        &[("PGSSLMODE", "require")],
        "SELECT 1",
    ));
    assert!(refusal.contains("server does not support SSL"), "{refusal}");
    lab.stop_helper("gateway").unwrap();

    let (certificate, key) = ours.issue(&host);
    let (certificate_file, key_file) = (dir.join("gateway.crt"), dir.join("gateway.key"));
    std::fs::write(&certificate_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let setting = |key: &str, value: String| (key.to_owned(), value);
    options.settings = vec![
        setting("gateway.tls_certificate", certificate_file.display().to_string()),
        setting("gateway.tls_key", key_file.display().to_string()),
        setting(
            "gateway.source_root_certificates",
            format!("[{:?}, {:?}]", root(&ours), root(&others)),
        ),
        setting("clusters.users.sslmode", "verify-full".into()),
        setting("clusters.users.sslrootcert", root(&ours)),
        setting("clusters.orders.sslmode", "verify-full".into()),
        setting("clusters.orders.sslrootcert", root(&others)),
    ];
    let gateway = lab.start_gateway(&options, &mut |_| {}).unwrap();
    let at = gateway.endpoint("users-writer").unwrap().address.clone();
    assert_eq!(at.host, host);
    let (good, bad) = (root(&ours), root(&others));
    let full = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", good.as_str())];

    // Client to gateway: what it says of itself, and whether its client checks it.
    let told = says(&psql(&lab, &at, &full, "\\conninfo"));
    assert!(told.contains("SSL"), "{told}");
    let doubt = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", bad.as_str())];
    let refusal = complains(&psql(&lab, &at, &doubt, "SELECT 1"));
    assert!(refusal.contains("certificate verify failed"), "{refusal}");
    // TLS is offered, not demanded, as PostgreSQL's `host` lines in pg_hba.conf do.
    assert_eq!(says(&psql(&lab, &at, &[("PGSSLMODE", "disable")], "SELECT 1")), "1");

    // Gateway to home, and to the source.
    assert_eq!(says(&psql(&lab, &at, &full, SEEN)), "t");
    let crossing = "SELECT h.n, w.word FROM here h CROSS JOIN words w";
    let crossed = says(&psql_all(&lab, &at, &full, &[crossing, "SHOW pgspan.last_route"]));
    assert!(crossed.starts_with("1|one\nhome_join"), "{crossed}");
    let pooled =
        "SELECT string_agg(ssl::text, ',') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE datname = 'ordersdb' AND pid <> pg_backend_pid()";
    assert_eq!(lab.psql(&source, "ordersdb", pooled).unwrap().trim(), "true");

    // A source whose certificate is not the one asked for: postgres_fdw's own refusal.
    let refusal = complains(&psql(&lab, &at, &full, "SELECT n, word FROM here, doubtful"));
    assert!(refusal.contains("could not connect to server \"doubtful\""), "{refusal}");

    // Many bytes both ways, which TLS cuts into records.
    let many =
        "SELECT length(string_agg(md5(i::text), '')), count(*) FROM generate_series(1, 300000) i";
    assert_eq!(says(&psql(&lab, &at, &full, many)), "9600000|300000");
    let rows = psql(&lab, &at, &full, "SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
    assert_eq!(says(&rows).len(), 20_000 * 1001 - 1);
    let long = format!("SELECT length('{}')", "y".repeat(100_000));
    assert_eq!(says(&psql(&lab, &at, &full, &long)), "100000");

    // A cluster whose certificate is not the one configured: nobody is let in unchecked.
    let orders = gateway.endpoint("orders-writer").unwrap().address.clone();
    let chain = [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", good.as_str())];
    let refusal = complains(&psql(&lab, &orders, &chain, "SELECT 1"));
    assert!(refusal.contains("could not connect to server \"orders\""), "{refusal}");
    assert!(!refusal.contains(&lab.state().password), "{refusal}");

    // Where TLS is demanded, nobody comes in without.
    lab.stop_helper("gateway").unwrap();
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let demanding =
        text.replace("endpoint = \"writer\"", "endpoint = \"writer\"\ntls = \"require\"");
    assert_ne!(text, demanding);
    std::fs::write(&gateway.config, demanding).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgspan"));
    command.args(["serve", "--config"]).arg(&gateway.config);
    let listen = gateway.endpoints.iter().map(|one| one.listen.clone()).collect();
    lab.start_helper("gateway", &mut command, listen).unwrap();
    let refusal = complains(&psql(&lab, &at, &[("PGSSLMODE", "disable")], "SELECT 1"));
    assert!(refusal.contains("takes encrypted connections only"), "{refusal}");
    assert_eq!(says(&psql(&lab, &at, &full, "SELECT 1")), "1");
}

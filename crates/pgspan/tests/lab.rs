//! `pgspan lab` as a user runs it: up, status, env, down.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A lab's directory; the lab goes with it, whatever the test does.
struct Lab {
    dir: PathBuf,
}

impl Lab {
    fn new() -> Lab {
        Lab { dir: std::env::temp_dir().join(pgspan_lab::random_name("pgspan-cli-").unwrap()) }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pgspan"))
            .arg("lab")
            .args(args)
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[test]
fn up_status_env_down() {
    let lab = Lab::new();
    let up =
        lab.run(&["up", "--no-gateway", "--latency", "2ms", "--server-setting", "work_mem=5MB"]);
    assert!(up.status.success(), "{up:?}");

    // It outlives the command that started it.
    let status = lab.json(&["status", "--json"]);
    assert_eq!(status["up"], true, "{status}");
    assert_eq!(status["servers"].as_array().unwrap().len(), 3);
    assert_eq!(status["helpers"][0]["name"], "relay");

    let env = lab.json(&["env", "--json"]);
    let server = &env["connection_info"]["servers"]["users_replica"];
    assert_ne!(server["port"], server["link"]["port"]);
    let psql = Command::new("psql")
        .args(["-X", "-w", "-At", "-h", "127.0.0.1", "-p"])
        .arg(server["link"]["port"].to_string())
        .args(["-U", "postgres", "-d", "usersdb", "-c", "SHOW work_mem"])
        .env("PGPASSWORD", env["database_password"].as_str().unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout), "5MB\n", "{psql:?}");
    // Without a gateway there are no endpoints to export.
    assert!(!lab.run(&["env"]).status.success());

    // A second `up` keeps it; another latency is refused.
    assert!(lab.run(&["up", "--no-gateway", "--latency", "2ms"]).status.success());
    assert!(!lab.run(&["up", "--no-gateway"]).status.success());

    assert!(lab.run(&["down"]).status.success());
    assert!(!lab.dir.exists());
    assert!(lab.run(&["down"]).status.success(), "nothing to stop is not an error");
    assert!(!lab.run(&["status"]).status.success());
}

#[test]
fn a_gateway_that_fails_takes_the_lab_with_it() {
    let lab = Lab::new();
    let up = lab.run(&["up", "--gateway-program", "/bin/false"]);
    assert!(!up.status.success());
    let error = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(error.contains("gateway ended while starting"), "{error}");
    assert!(!lab.dir.exists());
}

//! The databases that one file plays in, made fresh from its setup.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;

use crate::case_file::{CaseFile, Endpoint, Param, Side};
use crate::client::{Address, Connection, Extended, Flow, Login};
use crate::compare::Names;
use crate::expand::{self, Bindings};
use crate::lab::{Lab, USER};
use crate::reply::Reply;

/// The password of the roles that a file asks for.
pub const ROLE_PASSWORD: &str = "parity-role";

/// One set of databases.
#[derive(Debug)]
pub struct Realm {
    home: String,
    source: String,
    other: String,
    bindings: Bindings,
    /// Names of its objects, for comparison with another realm.
    pub names: Names,
    /// Type name → OID.
    type_oids: Mutex<HashMap<String, u32>>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Player {
    /// PostgreSQL itself.
    Oracle,
    /// The gateway.
    Gateway,
}

/// Everything one file needs.
#[derive(Debug)]
pub struct World<'a> {
    /// The servers.
    pub lab: &'a Lab,
    oracle: Realm,
    /// The gateway's own databases, when the file asks for them.
    gateway: Option<Realm>,
}

/// A parameter as it is sent: type OID, value, format.
pub type Sent = (u32, Option<Bytes>, i16);

impl<'a> World<'a> {
    /// Makes the databases of a file.
    ///
    /// # Errors
    /// What in its setup PostgreSQL refused.
    pub fn create(lab: &'a Lab, file: &CaseFile) -> Result<World<'a>, String> {
        let stem: String =
            file.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let roles: Bindings =
            file.roles.iter().map(|role| (role.clone(), format!("{stem}_{role}"))).collect();
        create_roles(lab, &roles)?;
        let oracle = Realm::create(lab, file, &format!("parity_{stem}"), &roles)?;
        let gateway = if file.separate {
            Some(Realm::create(lab, file, &format!("parity_{stem}_g"), &roles)?)
        } else {
            None
        };
        if lab.home_replica.is_some() && file.needs.iter().any(|need| need == "replica") {
            lab.catch_up()?;
        }
        Ok(World { lab, oracle, gateway })
    }

    /// The databases that a player plays in.
    pub fn realm(&self, player: Player) -> &Realm {
        match (player, &self.gateway) {
            (Player::Gateway, Some(realm)) => realm,
            _ => &self.oracle,
        }
    }

    /// A login for a session of a case.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub fn login(&self, player: Player, endpoint: Endpoint) -> Result<Login, String> {
        let address = match (player, endpoint) {
            (Player::Oracle, Endpoint::Writer) => Some(&self.lab.home),
            (Player::Oracle, Endpoint::Reader) => self.lab.home_replica.as_ref(),
            (Player::Gateway, Endpoint::Writer) => Some(&self.lab.gateway),
            (Player::Gateway, Endpoint::Reader) => self.lab.gateway_replica.as_ref(),
        };
        let address = address.ok_or("there is no reader endpoint")?;
        Ok(self.lab.login(address, &self.realm(player).home))
    }

    /// A direct session, past the gateway.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn direct(&self, player: Player, side: Side) -> Result<Connection, String> {
        self.realm(player).direct(self.lab, side)
    }

    /// Reads the names of all objects, when they are needed to compare two realms.
    ///
    /// # Errors
    /// What PostgreSQL refused.
    pub fn read_names(&mut self) -> Result<(), String> {
        if let Some(gateway) = &mut self.gateway {
            gateway.read_names(self.lab)?;
            self.oracle.read_names(self.lab)?;
        }
        Ok(())
    }
}

fn create_roles(lab: &Lab, roles: &Bindings) -> Result<(), String> {
    for address in [&lab.home, &lab.source] {
        if roles.is_empty() {
            break;
        }
        let mut admin = lab.connect(address, "postgres")?;
        for (_, role) in roles {
            let reply = admin.simple(&format!(
                "do $$ begin create role \"{role}\" login password '{ROLE_PASSWORD}'; \
                 exception when duplicate_object then null; end $$"
            ));
            must(&reply, "create role")?;
        }
    }
    Ok(())
}

fn must(reply: &Reply, what: &str) -> Result<(), String> {
    if reply.error.is_some() || reply.broken.is_some() {
        return Err(format!("{what}: {}", reply.summary()));
    }
    Ok(())
}

impl Realm {
    fn create(lab: &Lab, file: &CaseFile, stem: &str, roles: &Bindings) -> Result<Realm, String> {
        let mut realm = Realm {
            home: format!("{stem}_home"),
            source: format!("{stem}_source"),
            other: format!("{stem}_other"),
            bindings: Vec::new(),
            names: Names::default(),
            type_oids: Mutex::new(HashMap::new()),
        };
        realm.bindings = realm.bind(lab, roles);
        realm.names.texts = [&realm.home, &realm.source, &realm.other]
            .into_iter()
            .zip(["<home>", "<source>", "<other>"])
            .map(|(name, neutral)| (name.clone(), neutral.to_owned()))
            .collect();
        let other = file.setups.iter().any(|(side, _)| *side == Side::Other);
        make_database(lab, &lab.home, &realm.home)?;
        make_database(lab, &lab.source, &realm.source)?;
        if other {
            make_database(lab, &lab.source, &realm.other)?;
        }
        for (side, sql) in &file.setups {
            let sql = realm.bound(sql)?;
            let reply = realm.direct(lab, *side)?.simple(&sql);
            must(&reply, &format!("setup {side:?}"))?;
        }
        let newest = realm.direct(lab, Side::Home)?.simple(
            "select greatest((select max(oid) from pg_catalog.pg_class), \
             (select max(oid) from pg_catalog.pg_type), 16384::oid)",
        );
        realm.names.newest = newest.scalar().and_then(|oid| oid.parse().ok());
        Ok(realm)
    }

    fn bind(&self, lab: &Lab, roles: &Bindings) -> Bindings {
        let Address { host, port } = &lab.foreign;
        let password = &lab.password;
        let server = |name: &str, database: &str| {
            format!(
                "create extension if not exists postgres_fdw; \
                 create server {name} foreign data wrapper postgres_fdw \
                 options (host '{host}', port '{port}', dbname '{database}'); \
                 create user mapping for {USER} server {name} \
                 options (user '{USER}', password '{password}')"
            )
        };
        let mut bindings = roles.clone();
        for (name, value) in [
            ("home_db", self.home.clone()),
            ("source_db", self.source.clone()),
            ("other_db", self.other.clone()),
            ("source_host", host.clone()),
            ("source_port", port.to_string()),
            ("password", password.clone()),
            ("role_password", ROLE_PASSWORD.to_owned()),
            ("create_server", server("src", &self.source)),
            ("create_other", server("oth", &self.other)),
        ] {
            bindings.push((name.to_owned(), value));
        }
        bindings
    }

    /// The text with everything replaced.
    ///
    /// # Errors
    /// When a name is left that nobody knows.
    pub fn bound(&self, text: &str) -> Result<String, String> {
        let text = expand::substitute(text, &self.bindings);
        match expand::unbound(&text) {
            Some(name) => Err(format!("{name} stands for nothing")),
            None => Ok(text),
        }
    }

    /// A direct session with one of the databases.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn direct(&self, lab: &Lab, side: Side) -> Result<Connection, String> {
        match side {
            Side::Home => lab.connect(&lab.home, &self.home),
            Side::Source => lab.connect(&lab.source, &self.source),
            Side::Other => lab.connect(&lab.source, &self.other),
        }
    }

    fn read_names(&mut self, lab: &Lab) -> Result<(), String> {
        let mut home = self.direct(lab, Side::Home)?;
        let mut read = |sql: &str| -> Result<HashMap<u32, String>, String> {
            let reply = home.simple(sql);
            must(&reply, sql)?;
            let rows = reply.results.into_iter().flat_map(|result| result.rows);
            Ok(rows
                .filter_map(|row| {
                    let mut texts = row.into_iter().flatten();
                    let oid = String::from_utf8_lossy(&texts.next()?).parse().ok()?;
                    Some((oid, String::from_utf8_lossy(&texts.next()?).into_owned()))
                })
                .collect())
        };
        self.names.types =
            read("select oid, oid::pg_catalog.regtype from pg_catalog.pg_type where oid >= 16384")?;
        self.names.relations = read(
            "select oid, oid::pg_catalog.regclass from pg_catalog.pg_class where oid >= 16384",
        )?;
        Ok(())
    }

    /// Parameters as they are sent, as text or, where PostgreSQL converts them, in binary.
    ///
    /// # Errors
    /// When a type has no such name.
    pub fn parameters(
        &self,
        lab: &Lab,
        params: &[Param],
        binary: bool,
    ) -> Result<Vec<Sent>, String> {
        if params.is_empty() {
            return Ok(Vec::new());
        }
        let mut home = self.direct(lab, Side::Home)?;
        params
            .iter()
            .map(|param| {
                let oid = self.type_oid(&mut home, &param.type_name)?;
                let text = match &param.value {
                    Some(value) => Some(Bytes::from(self.bound(value)?)),
                    None => None,
                };
                if !binary || oid == 0 || text.is_none() {
                    return Ok((oid, text, 0));
                }
                let sql = format!("select $1::{}", param.type_name);
                let reply = home.extended(&Extended {
                    sql: &sql,
                    param_oids: &[oid],
                    params: std::slice::from_ref(&text),
                    param_formats: &[0],
                    result_format: 1,
                    flow: Flow::OneTrip,
                });
                let converted =
                    reply.results.into_iter().find_map(|mut result| result.rows.pop()?.pop()?);
                // What PostgreSQL cannot read goes as text: the case is about its error.
                Ok(match converted {
                    Some(value) => (oid, Some(value), 1),
                    None => (oid, text, 0),
                })
            })
            .collect()
    }

    fn type_oid(&self, home: &mut Connection, name: &str) -> Result<u32, String> {
        if name == "unknown" {
            return Ok(0);
        }
        let mut known = self.type_oids.lock().map_err(|error| error.to_string())?;
        if let Some(oid) = known.get(name) {
            return Ok(*oid);
        }
        let reply = home.simple(&format!(
            "select '{}'::pg_catalog.regtype::pg_catalog.oid",
            name.replace('\'', "''")
        ));
        let oid = reply
            .scalar()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("type {name}: {}", reply.summary()))?;
        known.insert(name.to_owned(), oid);
        Ok(oid)
    }
}

fn make_database(lab: &Lab, address: &Address, name: &str) -> Result<(), String> {
    let mut admin = lab.connect(address, "postgres")?;
    for sql in
        [format!("drop database if exists {name} with (force)"), format!("create database {name}")]
    {
        must(&admin.simple(&sql), &sql)?;
    }
    Ok(())
}

/// Removes the databases of a file.
pub fn remove(world: World<'_>) {
    let World { lab, oracle, gateway } = world;
    for realm in [Some(oracle), gateway].into_iter().flatten() {
        for (address, name) in
            [(&lab.home, &realm.home), (&lab.source, &realm.source), (&lab.source, &realm.other)]
        {
            if let Ok(mut admin) = lab.connect(address, "postgres") {
                let _ = admin.simple(&format!("drop database if exists {name} with (force)"));
            }
        }
    }
}

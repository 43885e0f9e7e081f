//! Where the guide is played: addresses, names, and the baseline beside it.

use pgspan_lab::Address;

use super::DemoError;
use super::guide::{self, Fill};
use super::psql::{Login, Psql};

/// Where the guide is played.
#[derive(Debug, Clone)]
pub struct Stage {
    /// How to connect.
    pub login: Login,
    /// The database of the users.
    pub users_db: String,
    /// The database of the orders.
    pub orders_db: String,
    /// The gateway's endpoints.
    pub users_writer: Address,
    /// The same, for reads.
    pub users_reader: Address,
    /// The same, of the orders.
    pub orders_writer: Address,
    /// Set on every connection, when the guide's tables are not in `public`.
    pub search_path: Option<String>,
    /// The guide's variables.
    pub fill: Fill,
    /// Plain postgres_fdw beside it.
    pub baseline: Baseline,
    /// Round-trip time on every link, in microseconds.
    pub latency_us: u64,
}

/// Home itself, without the gateway.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// Home's writer.
    pub writer: Address,
    /// Home's reader.
    pub reader: Address,
    /// The `search_path` that finds its `remote_orders`.
    pub search_path: String,
    /// How its foreign server is declared, if it needs one of its own.
    pub fill: Option<Fill>,
}

/// An endpoint of the stage.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// `$USERS_WRITER`.
    UsersWriter,
    /// `$USERS_READER`.
    UsersReader,
    /// `$ORDERS_WRITER`.
    OrdersWriter,
}

impl Stage {
    /// Connects to an endpoint of the gateway.
    pub fn connect(&self, place: Place) -> Result<Psql, DemoError> {
        let (address, database) = match place {
            Place::UsersWriter => (&self.users_writer, &self.users_db),
            Place::UsersReader => (&self.users_reader, &self.users_db),
            Place::OrdersWriter => (&self.orders_writer, &self.orders_db),
        };
        let mut psql = Psql::connect(&self.login, address, database)?;
        if let Some(path) = &self.search_path {
            psql.run(&format!("SET search_path = {path};"))?;
        }
        Ok(psql)
    }

    /// Connects to home itself.
    pub fn connect_baseline(&self, address: &Address) -> Result<Psql, DemoError> {
        let mut psql = Psql::connect(&self.login, address, &self.users_db)?;
        psql.run(&format!("SET search_path = {};", self.baseline.search_path))?;
        Ok(psql)
    }

    /// Declares the baseline's own foreign table, where it needs one.
    pub fn prepare_baseline(&self) -> Result<(), DemoError> {
        let Some(fill) = &self.baseline.fill else {
            return Ok(());
        };
        let mut home = Psql::connect(&self.login, &self.baseline.writer, &self.users_db)?;
        home.run("CREATE SCHEMA direct_fdw;")?;
        home.run(&format!("SET search_path = {};", self.baseline.search_path))?;
        for sql in guide::statements(guide::FDW, fill) {
            if sql.starts_with("CREATE ") {
                home.run(&sql)?;
            }
        }
        Ok(())
    }
}

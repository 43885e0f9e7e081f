//! The guide's SQL, as the guide writes it, and what is filled in.

/// Step 4: five users.
pub const USERS: &str = include_str!("guide/4-users.sql");
/// Step 5: six orders.
pub const ORDERS: &str = include_str!("guide/5-orders.sql");
/// Step 6: postgres_fdw.
pub const FDW: &str = include_str!("guide/6-fdw.sql");
/// Step 7: the join.
pub const JOIN: &str = include_str!("guide/7-join.sql");
/// Step 7: the aggregate.
pub const AGGREGATE: &str = include_str!("guide/7-aggregate.sql");
/// Step 7: customers by tier.
pub const TIERS: &str = include_str!("guide/7-tiers.sql");
/// Step 8 A: before.
pub const BEFORE: &str = include_str!("guide/8a-before.sql");
/// Step 8 B: two new orders.
pub const NEW_ORDERS: &str = include_str!("guide/8b-new-orders.sql");
/// Step 8 C: after.
pub const AFTER: &str = include_str!("guide/8c-after.sql");
/// Step 8 D: a change.
pub const UPDATE: &str = include_str!("guide/8d-update.sql");
/// Step 8 D: after it.
pub const AFTER_UPDATE: &str = include_str!("guide/8d-after.sql");
/// Step 9 A: the plan.
pub const EXPLAIN: &str = include_str!("guide/9a-explain.sql");
/// Step 9 B: the same query three times.
pub const REPEATED: &str = include_str!("guide/9b-repeated.sql");
/// Step 9 C: a hundred orders.
pub const BULK: &str = include_str!("guide/9c-bulk.sql");
/// Step 9 C: the aggregate over them.
pub const BULK_AGGREGATE: &str = include_str!("guide/9c-aggregate.sql");

/// What the guide leaves to its reader, and where verification differs.
#[derive(Debug, Clone)]
pub struct Fill {
    /// `$ORDERS_WRITER`, and the port beside it.
    pub foreign_host: String,
    /// In place of `5432`.
    pub foreign_port: u16,
    /// `$PGPASSWORD`.
    pub password: String,
    /// In place of `postgres`.
    pub user: String,
    /// In place of `ordersdb`.
    pub orders_db: String,
    /// In place of `orders_server`.
    pub server: String,
    /// In place of `public`.
    pub orders_schema: String,
}

/// The statements of a script, variables filled in. psql's own commands
/// (`\timing`, `\q`) are not statements: the session does what they ask.
pub fn statements(script: &str, fill: &Fill) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    for line in script.lines() {
        if current.is_empty() && (line.trim().is_empty() || line.starts_with(['\\', '-'])) {
            continue;
        }
        current.push_str(line);
        current.push('\n');
        if line.trim_end().ends_with(';') {
            statements.push(fill_in(current.trim_end(), fill));
            current.clear();
        }
    }
    statements
}

fn fill_in(sql: &str, fill: &Fill) -> String {
    if !sql.starts_with("CREATE ") {
        return sql.to_string();
    }
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let user = if plain(&fill.user) {
        fill.user.clone()
    } else {
        format!("\"{}\"", fill.user.replace('"', "\"\""))
    };
    [
        ("'$ORDERS_WRITER'", literal(&fill.foreign_host)),
        ("'5432'", literal(&fill.foreign_port.to_string())),
        ("'ordersdb'", literal(&fill.orders_db)),
        ("FOR postgres", format!("FOR {user}")),
        ("user 'postgres'", format!("user {}", literal(&fill.user))),
        ("orders_server", fill.server.clone()),
        ("'public'", literal(&fill.orders_schema)),
        // Last: a password may contain any of the above.
        ("'$PGPASSWORD'", literal(&fill.password)),
    ]
    .iter()
    .fold(sql.to_string(), |sql, (from, to)| sql.replace(from, to))
}

/// Whether a name needs no quotes.
fn plain(name: &str) -> bool {
    name.starts_with(|char: char| char.is_ascii_lowercase() || char == '_')
        && name
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill() -> Fill {
        Fill {
            foreign_host: "127.0.0.4".into(),
            foreign_port: 5432,
            password: "it's".into(),
            user: "postgres".into(),
            orders_db: "ordersdb".into(),
            server: "orders_server".into(),
            orders_schema: "public".into(),
        }
    }

    #[test]
    fn scripts_have_their_statements() {
        for (script, count) in [
            (USERS, 6),
            (ORDERS, 7),
            (FDW, 5),
            (JOIN, 1),
            (AGGREGATE, 1),
            (TIERS, 1),
            (BEFORE, 1),
            (NEW_ORDERS, 3),
            (AFTER, 2),
            (UPDATE, 2),
            (AFTER_UPDATE, 1),
            (EXPLAIN, 1),
            (REPEATED, 3),
            (BULK, 2),
            (BULK_AGGREGATE, 1),
        ] {
            assert_eq!(statements(script, &fill()).len(), count, "{script}");
        }
    }

    #[test]
    fn variables_are_filled_in() {
        let sql = statements(FDW, &fill()).join("\n");
        assert!(sql.contains("host '127.0.0.4', port '5432', dbname 'ordersdb'"));
        assert!(sql.contains("FOR postgres SERVER orders_server"));
        assert!(sql.contains("user 'postgres', password 'it''s'"));
        assert!(!sql.contains('$'));
        let mut other = fill();
        other.user = "App User".into();
        other.orders_schema = "s1".into();
        let sql = statements(FDW, &other).join("\n");
        assert!(sql.contains("FOR \"App User\" SERVER"));
        assert!(sql.contains("schema_name 's1'"));
    }
}

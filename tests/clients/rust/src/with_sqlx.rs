//! sqlx: its statement cache and its own questions about types, a pool, streams,
//! transactions, listeners, COPY.

mod record;

use futures_util::{TryStreamExt, future::join_all};
use record::{Statement, emit, judged, place, statements};
use serde_json::{Value, json};
use sqlx::postgres::{PgArguments, PgListener, PgPoolCopyExt, PgPoolOptions, PgRow};
use sqlx::{
    Acquire, Column, Connection, Executor, PgConnection, Row, Statement as _, TypeInfo, ValueRef,
};

const JOIN: &str = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id";
const ORDERS: &str = "SELECT count(*), sum(total_amount) FROM remote_orders";

async fn connect() -> PgConnection {
    PgConnection::connect(&place(false)).await.unwrap()
}

fn fault(error: &sqlx::Error) -> Value {
    let Some(db) = error.as_database_error() else { return json!({"other": error.to_string()}) };
    let db = db.downcast_ref::<sqlx::postgres::PgDatabaseError>();
    json!({"state": db.code(), "message": db.message(), "detail": db.detail(), "hint": db.hint(), "where": db.r#where(),
        "position": format!("{:?}", db.position()), "table": db.table(), "constraint": db.constraint(), "column": db.column()})
}

fn rows(rows: &[PgRow]) -> Value {
    let of = |row: &PgRow| -> Vec<Value> {
        (0..row.len())
            .map(|n| {
                let value = row.try_get_raw(n).unwrap();
                let bytes = if value.is_null() { None } else { value.as_bytes().ok().map(hex) };
                json!([row.column(n).name(), row.column(n).type_info().name(), bytes])
            })
            .collect()
    };
    json!(rows.iter().map(of).collect::<Vec<_>>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn either(result: Result<Value, sqlx::Error>) -> Value {
    result.unwrap_or_else(|error| fault(&error))
}

fn bound<'q>(statement: &'q Statement) -> sqlx::query::Query<'q, sqlx::Postgres, PgArguments> {
    let mut query = sqlx::query(&statement.sql);
    for param in &statement.params {
        query = match param {
            Value::Number(number) => query.bind(number.as_i64().unwrap() as i32),
            other => query.bind(other.as_str()),
        };
    }
    query
}

async fn play(conn: &mut PgConnection, how: &str, statement: &Statement) {
    let result = match how {
        "raw" => sqlx::raw_sql(&statement.sql).fetch_all(conn).await.map(|got| rows(&got)),
        "not cached" => {
            bound(statement).persistent(false).fetch_all(conn).await.map(|got| rows(&got))
        }
        "describe" => conn.prepare(&statement.sql).await.map(|ready| {
            let columns: Vec<Value> =
                ready.columns().iter().map(|c| json!([c.name(), c.type_info().name()])).collect();
            json!([columns, format!("{:?}", ready.parameters())])
        }),
        _ => bound(statement).fetch_all(conn).await.map(|got| rows(&got)),
    };
    let state = result.as_ref().err().map(|error| {
        error
            .as_database_error()
            .and_then(|db| db.code())
            .map_or_else(|| error.to_string(), |code| code.into_owned())
    });
    let name = format!("{how}: {}", statement.name);
    if how == "describe" {
        // Errors of execution do not come here.
        emit(&name, either(result));
    } else {
        judged(&name, statement, state, either(result));
    }
}

async fn one(conn: &mut PgConnection, sql: &str) -> Value {
    either(sqlx::query(sql).fetch_all(conn).await.map(|got| rows(&got)))
}

async fn transactions() -> Value {
    let mut conn = connect().await;
    let mut seen = Vec::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut outer = Connection::begin(&mut conn).await.unwrap();
        seen.push(one(&mut outer, &format!("SET TRANSACTION ISOLATION LEVEL {level}")).await);
        seen.push(one(&mut outer, JOIN).await);
        let mut inner = outer.begin().await.unwrap();
        seen.push(one(&mut inner, "SELECT 1 / (order_id - 3) FROM remote_orders").await);
        seen.push(one(&mut inner, JOIN).await);
        inner.rollback().await.unwrap();
        seen.push(one(&mut outer, ORDERS).await);
        seen.push(one(&mut outer, "INSERT INTO notes (body) VALUES ('sqlx') RETURNING body").await);
        drop(outer);
        seen.push(one(&mut conn, JOIN).await);
    }
    json!(seen)
}

async fn streams() -> Value {
    let mut conn = connect().await;
    let mut seen = Vec::new();
    for sql in [
        JOIN,
        "SELECT m.id FROM remote_many m LEFT JOIN users u ON u.user_id = m.id ORDER BY m.id",
        "SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id",
    ] {
        {
            let mut stream = sqlx::query(sql).fetch(&mut conn);
            // Dropped in the middle: the rest is read before the next statement.
            seen.push(either(stream.try_next().await.map(|row| rows(row.as_slice()))));
        }
        seen.push(one(&mut conn, ORDERS).await);
        let all: Result<Vec<PgRow>, _> = sqlx::query(sql).fetch(&mut conn).try_collect().await;
        seen.push(either(all.map(|got| json!(got.len()))));
    }
    json!(seen)
}

async fn pool() -> Value {
    let pool = PgPoolOptions::new().max_connections(3).connect(&place(false)).await.unwrap();
    let runs = (0..20).map(|n| {
        let pool = pool.clone();
        async move {
            let sql = if n % 2 == 0 { JOIN } else { ORDERS };
            either(sqlx::query(sql).fetch_all(&pool).await.map(|got| rows(&got)))
        }
    });
    let mut seen = join_all(runs).await;
    let mut copy = pool.copy_in_raw("COPY remote_notes (id, body) FROM STDIN").await.unwrap();
    copy.send(b"15000\tone\n15001\ttwo\n".as_slice()).await.unwrap();
    seen.push(json!(copy.finish().await.unwrap()));
    let mut refused = pool.copy_in_raw("COPY notes (id, body) FROM STDIN").await.unwrap();
    refused.send(b"15002\tx\n".as_slice()).await.unwrap();
    seen.push(json!(format!("{:?}", refused.abort("given up").await.is_ok())));
    let out = pool.copy_out_raw(&format!("COPY ({JOIN}) TO STDOUT")).await.unwrap();
    let parts: Vec<_> = out.try_collect().await.unwrap();
    seen.push(json!(hex(&parts.concat())));
    seen.push(either(
        sqlx::query("DELETE FROM remote_notes WHERE id >= 15000")
            .execute(&pool)
            .await
            .map(|done| json!(done.rows_affected())),
    ));
    pool.close().await;
    json!(seen)
}

async fn listener() -> Value {
    let mut listener = PgListener::connect(&place(false)).await.unwrap();
    listener.listen("news").await.unwrap();
    let mut conn = connect().await;
    let mut seen = Vec::new();
    for word in ["one", "two"] {
        seen.push(one(&mut conn, &format!("SELECT pg_notify('news', '{word}')")).await);
        let heard = listener.recv().await.unwrap();
        seen.push(json!([heard.channel(), heard.payload()]));
    }
    json!(seen)
}

async fn ddl() -> Value {
    let (mut conn, mut other) = (connect().await, connect().await);
    let mut far = PgConnection::connect(&place(true)).await.unwrap();
    let mut seen = vec![one(&mut far, "ALTER TABLE shrinking ADD extra int DEFAULT 5").await];
    for change in [
        "SELECT 1",
        "ALTER FOREIGN TABLE remote_shrinking ADD extra int",
        "ALTER FOREIGN TABLE remote_shrinking DROP extra",
        "ALTER FOREIGN TABLE remote_shrinking RENAME name TO title",
        "ALTER FOREIGN TABLE remote_shrinking RENAME title TO name",
        "DROP FOREIGN TABLE remote_shrinking",
    ] {
        seen.push(one(&mut other, change).await);
        for sql in [
            "SELECT * FROM remote_shrinking",
            "SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id",
        ] {
            seen.push(one(&mut conn, sql).await);
            seen.push(one(&mut conn, sql).await);
        }
    }
    json!(seen)
}

#[tokio::main]
async fn main() {
    let all = statements();
    let mut lasting = connect().await;
    for how in ["cached", "cached again", "not cached", "raw", "describe"] {
        for statement in all.iter().filter(|one| how != "raw" || one.params.is_empty()) {
            play(&mut lasting, how, statement).await;
        }
    }
    emit("transactions", transactions().await);
    emit("streams", streams().await);
    emit("pool and copy", pool().await);
    emit("listener", listener().await);
    emit("DDL between executions", ddl().await);
}

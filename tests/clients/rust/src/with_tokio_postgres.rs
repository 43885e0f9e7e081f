//! tokio-postgres: prepared and simple queries, pipelining over one connection,
//! portals, COPY, notifications, cancel tokens, transactions.

mod record;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, TryStreamExt, future::join_all, pin_mut, stream};
use record::{Statement, emit, judged, place, statements};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage};

const JOIN: &str = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id";
const ORDERS: &str = "SELECT count(*), sum(total_amount) FROM remote_orders";

/// Any value, as the bytes that came.
struct Raw(String);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A parameter of the data file, for whatever type the server asks.
#[derive(Debug)]
struct Given(Value);

impl ToSql for Given {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Number(number) => (number.as_i64().unwrap() as i32).to_sql(ty, out),
            other => other.as_str().unwrap().to_sql(ty, out),
        }
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

async fn connect_to(source: bool) -> (Client, UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(&place(source), NoTls).await.unwrap();
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            let text = match message {
                AsyncMessage::Notification(n) => format!("{}: {}", n.channel(), n.payload()),
                AsyncMessage::Notice(n) => format!("{} {}", n.severity(), n.message()),
                _ => continue,
            };
            let _ = sender.send(text);
        }
    });
    (client, receiver)
}

async fn connect() -> Client {
    connect_to(false).await.0
}

fn fault(error: &Error) -> Value {
    let Some(db) = error.as_db_error() else { return json!({"other": error.to_string()}) };
    json!({"state": db.code().code(), "severity": db.severity(), "message": db.message(), "detail": db.detail(),
        "hint": db.hint(), "where": db.where_(), "position": format!("{:?}", db.position()), "schema": db.schema(),
        "table": db.table(), "column": db.column(), "constraint": db.constraint(), "datatype": db.datatype()})
}

fn rows(rows: &[Row]) -> Value {
    let of = |row: &Row| -> Vec<Value> {
        (0..row.len())
            .map(|n| row.get::<_, Option<Raw>>(n).map_or(Value::Null, |raw| json!(raw.0)))
            .collect()
    };
    json!(rows.iter().map(of).collect::<Vec<_>>())
}

fn either(result: Result<Value, Error>) -> Value {
    result.unwrap_or_else(|error| fault(&error))
}

async fn prepared(client: &Client, sql: &str, params: &[Value]) -> Result<Value, Error> {
    let statement = client.prepare(sql).await?;
    let columns: Vec<Value> = statement
        .columns()
        .iter()
        .map(|c| json!([c.name(), c.type_().name(), c.table_oid().is_some(), c.column_id()]))
        .collect();
    let types: Vec<&str> = statement.params().iter().map(Type::name).collect();
    let given: Vec<Given> = params.iter().cloned().map(Given).collect();
    let given: Vec<&(dyn ToSql + Sync)> = given.iter().map(|one| one as _).collect();
    if columns.is_empty() {
        return Ok(json!([types, client.execute(&statement, &given).await?]));
    }
    Ok(json!([types, columns, rows(&client.query(&statement, &given).await?)]))
}

async fn simple(client: &Client, sql: &str) -> Result<Value, Error> {
    let mut seen = Vec::new();
    for message in client.simple_query(sql).await? {
        seen.push(match message {
            SimpleQueryMessage::Row(row) => {
                json!((0..row.len()).map(|n| row.get(n)).collect::<Vec<_>>())
            }
            SimpleQueryMessage::CommandComplete(count) => json!({"complete": count}),
            SimpleQueryMessage::RowDescription(columns) => {
                json!(columns.iter().map(|c| c.name()).collect::<Vec<_>>())
            }
            _ => json!("?"),
        });
    }
    Ok(json!(seen))
}

async fn one(client: &Client, sql: &str) -> Value {
    either(client.query(sql, &[]).await.map(|got| rows(&got)))
}

async fn play(client: &Client, how: &str, statement: &Statement) {
    let result = if how == "simple" {
        simple(client, &statement.sql).await
    } else {
        prepared(client, &statement.sql, &statement.params).await
    };
    let state = result
        .as_ref()
        .err()
        .map(|e| e.code().map_or_else(|| e.to_string(), |code| code.code().to_owned()));
    judged(&format!("{how}: {}", statement.name), statement, state, either(result));
}

/// Many requests at once over one connection, an error among them.
async fn pipelined() -> Value {
    let client = connect().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let all = [
            JOIN,
            ORDERS,
            "SELECT 1 / (order_id - 3) FROM remote_orders",
            JOIN,
            "SELECT missing FROM remote_orders",
            "SELECT 1",
            ORDERS,
        ];
        seen.push(json!(join_all(all.iter().map(|sql| one(&client, sql))).await));
        seen.push(json!(
            join_all(all.iter().map(|sql| async { either(simple(&client, sql).await) })).await
        ));
    }
    json!(seen)
}

/// One prepared statement, many executions at once.
async fn executions() -> Value {
    let client = connect().await;
    let mut seen = Vec::new();
    for sql in [
        "SELECT product_name FROM remote_orders WHERE order_id = $1",
        "SELECT o.product_name, u.username FROM remote_orders o JOIN users u USING (user_id) WHERE o.order_id = $1",
    ] {
        let statement = client.prepare(sql).await.unwrap();
        let numbers: Vec<i32> = (0..12).collect();
        let runs = numbers.iter().map(|n| {
            let (client, statement) = (&client, &statement);
            async move { either(client.query(statement, &[n]).await.map(|got| rows(&got))) }
        });
        seen.push(json!(join_all(runs).await));
    }
    json!(seen)
}

/// A portal, read in pieces, others between.
async fn portals() -> Value {
    let mut client = connect().await;
    let mut seen = Vec::new();
    for sql in [
        JOIN,
        "SELECT order_id FROM remote_orders ORDER BY 1",
        "SELECT user_id FROM users ORDER BY 1",
        "SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id",
    ] {
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind(sql, &[]).await.unwrap();
        for size in [2, 1, 100, 1] {
            let got = transaction.query_portal(&portal, size).await;
            seen.push(either(got.map(|got| rows(&got))));
            seen.push(either(transaction.query(ORDERS, &[]).await.map(|got| rows(&got))));
        }
        transaction.rollback().await.unwrap();
    }
    json!(seen)
}

async fn transactions() -> Value {
    let mut client = connect().await;
    let mut seen = Vec::new();
    for level in [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ] {
        for read_only in [false, true] {
            let mut transaction = client
                .build_transaction()
                .isolation_level(level)
                .read_only(read_only)
                .start()
                .await
                .unwrap();
            seen.push(either(transaction.query(JOIN, &[]).await.map(|got| rows(&got))));
            let inner = transaction.savepoint("nested").await.unwrap();
            seen.push(either(
                inner
                    .query("SELECT 1 / (order_id - 3) FROM remote_orders", &[])
                    .await
                    .map(|got| rows(&got)),
            ));
            seen.push(either(inner.query(JOIN, &[]).await.map(|got| rows(&got))));
            inner.rollback().await.unwrap();
            seen.push(either(transaction.query(ORDERS, &[]).await.map(|got| rows(&got))));
            seen.push(either(
                transaction
                    .execute("INSERT INTO notes (body) VALUES ('tokio')", &[])
                    .await
                    .map(|n| json!(n)),
            ));
            // Dropped: rolled back without being waited for.
            drop(transaction);
            seen.push(one(&client, JOIN).await);
        }
    }
    json!(seen)
}

async fn copies() -> Value {
    let client = connect().await;
    let mut seen = Vec::new();
    for query in [
        JOIN,
        ORDERS,
        "SELECT missing FROM remote_orders",
        "SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY 1",
    ] {
        for options in ["", " (FORMAT binary)"] {
            let run = async {
                let out = client.copy_out(&format!("COPY ({query}) TO STDOUT{options}")).await?;
                let parts: Vec<Bytes> = out.try_collect().await?;
                Ok(json!(
                    parts.concat().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                ))
            };
            seen.push(either(run.await));
        }
    }
    for table in ["notes", "remote_notes"] {
        for text in ["14000\tone\n14001\ttwo\n", "14002\tthree\nx\ty\n"] {
            let run = async {
                let sink = client.copy_in(&format!("COPY {table} (id, body) FROM STDIN")).await?;
                pin_mut!(sink);
                sink.send(Bytes::from_static(text.as_bytes())).await?;
                sink.finish().await.map(|count| json!(count))
            };
            seen.push(either(run.await));
            // Straight behind a COPY: nothing may wait for an answer to its first Sync.
            seen.push(one(&client, JOIN).await);
        }
        // Dropped in the middle: the client gives up.
        if let Ok(sink) =
            client.copy_in::<str, Bytes>(&format!("COPY {table} (id, body) FROM STDIN")).await
        {
            pin_mut!(sink);
            let _ = sink.feed(Bytes::from_static(b"14009\tnever\n")).await;
        }
        seen.push(
            one(&client, &format!("SELECT id, body FROM {table} WHERE id >= 14000 ORDER BY id"))
                .await,
        );
        seen.push(one(&client, &format!("DELETE FROM {table} WHERE id >= 14000")).await);
    }
    json!(seen)
}

async fn notifications() -> Value {
    let (client, mut heard) = connect_to(false).await;
    let other = connect().await;
    client.batch_execute("LISTEN news").await.unwrap();
    other.batch_execute("NOTIFY news, 'one'").await.unwrap();
    let mut seen = vec![json!(heard.recv().await)];
    client.batch_execute("NOTIFY news, 'own'").await.unwrap();
    seen.push(json!(heard.recv().await));
    seen.push(
        one(&client, "SELECT complain(product_name, 0) FROM remote_orders ORDER BY order_id").await,
    );
    for _ in 0..6 {
        seen.push(json!(heard.recv().await));
    }
    json!(seen)
}

async fn cancels() -> Value {
    let (client, (far, _)) = (connect().await, connect_to(true).await);
    far.batch_execute("BEGIN; LOCK TABLE many").await.unwrap();
    let mut seen = Vec::new();
    for sql in [
        "SELECT pg_sleep(30)",
        "SELECT count(*) FROM remote_many",
        "SELECT m.name, u.username FROM remote_many m JOIN users u ON u.user_id = m.id",
    ] {
        let token = client.cancel_token();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let (ended, ()) = tokio::join!(one(&client, sql), stop);
        seen.push(ended);
        seen.push(one(&client, JOIN).await);
        // A future that is dropped: its answer is read and thrown away.
        let dropped = tokio::time::timeout(
            Duration::from_millis(50),
            client.query("SELECT pg_sleep(0.2), count(*) FROM remote_orders", &[]),
        )
        .await;
        seen.push(json!(dropped.is_err()));
        seen.push(one(&client, ORDERS).await);
    }
    far.batch_execute("ROLLBACK").await.unwrap();
    json!(seen)
}

async fn ddl() -> Value {
    let (client, other, (far, _)) = (connect().await, connect().await, connect_to(true).await);
    far.batch_execute("ALTER TABLE shrinking ADD extra int DEFAULT 5").await.unwrap();
    let all = client.prepare("SELECT * FROM remote_shrinking").await.unwrap();
    let join = client
        .prepare("SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id")
        .await
        .unwrap();
    let mut seen = Vec::new();
    for change in [
        "SELECT 1",
        "ALTER FOREIGN TABLE remote_shrinking ADD extra int",
        "ALTER FOREIGN TABLE remote_shrinking DROP extra",
        "ALTER FOREIGN TABLE remote_shrinking RENAME name TO title",
        "ALTER FOREIGN TABLE remote_shrinking RENAME title TO name",
        "DROP FOREIGN TABLE remote_shrinking",
    ] {
        seen.push(either(other.batch_execute(change).await.map(|()| json!(change))));
        for statement in [&all, &join] {
            for _ in 0..2 {
                seen.push(either(client.query(statement, &[]).await.map(|got| rows(&got))));
            }
        }
    }
    json!(seen)
}

#[tokio::main]
async fn main() {
    let all = statements();
    let lasting = connect().await;
    for how in ["prepared", "prepared again", "simple"] {
        for statement in all.iter().filter(|one| how != "simple" || one.params.is_empty()) {
            play(&lasting, how, statement).await;
        }
    }
    emit("pipelined queries", pipelined().await);
    emit("executions at once", executions().await);
    emit("portals", portals().await);
    emit("transactions", transactions().await);
    emit("copy", copies().await);
    emit("notifications and notices", notifications().await);
    emit("cancel and drop", cancels().await);
    emit("DDL between executions", ddl().await);
}

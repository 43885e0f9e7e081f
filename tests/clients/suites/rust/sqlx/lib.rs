//! What sqlx's tests use of `sqlx-test`, a crate of its repository that is not published:
//! connections to `DATABASE_URL`, and tests of a type's values, which the server compares
//! with literals. It must not know which tests there are.

use std::env;

use sqlx::pool::{Pool, PoolOptions};
use sqlx::{Connection, Database};

const CONNECTIONS_MAX: u32 = 5;

pub fn setup_if_needed() {
    let _ = env_logger::builder().is_test(true).try_init();
}

pub async fn new<DB: Database>() -> anyhow::Result<DB::Connection> {
    setup_if_needed();
    Ok(DB::Connection::connect(&env::var("DATABASE_URL")?).await?)
}

pub async fn pool<DB: Database>() -> anyhow::Result<Pool<DB>> {
    setup_if_needed();
    let options = PoolOptions::<DB>::new().min_connections(0).max_connections(CONNECTIONS_MAX);
    Ok(options.test_before_acquire(true).connect(&env::var("DATABASE_URL")?).await?)
}

/// A value there and back, with parameters, and read from a simple query.
#[macro_export]
macro_rules! test_type {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::round_trip!($name<$ty>($db, $sql, $($text == $value),+));
        $crate::test_unprepared_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_prepared_type!($name<$ty>($db, $($text == $value),+));
        $crate::test_unprepared_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$name>($db, $($text == $value),+));
    };
}

/// A value that is only read, from a prepared and from a simple query.
#[macro_export]
macro_rules! test_decode_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        paste::item! {
            #[sqlx::test]
            async fn [<test_prepared_decode_type_ $name>]() -> anyhow::Result<()> {
                use sqlx::Row;
                let mut conn = $crate::new::<$db>().await?;
                $({
                    let query = concat!("SELECT ", $text);
                    let row = sqlx::query(query).fetch_one(&mut conn).await?;
                    let read: $ty = row.try_get(0)?;
                    assert_eq!($value, read, "{query}");
                })+
                Ok(())
            }
        }
        $crate::test_unprepared_type!($name<$ty>($db, $($text == $value),+));
    };
}

/// A value there and back, with parameters.
#[macro_export]
macro_rules! test_prepared_type {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::round_trip!($name<$ty>($db, $sql, $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::round_trip!($name<$ty>($db, "SELECT ({0} is not distinct from $1)::int4, {0}, $2", $($text == $value),+));
    };
}

/// A value read from a simple query: as text.
#[macro_export]
macro_rules! test_unprepared_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        paste::item! {
            #[sqlx::test]
            async fn [<test_unprepared_type_ $name>]() -> anyhow::Result<()> {
                use futures::TryStreamExt;
                use sqlx::prelude::*;
                let mut conn = $crate::new::<$db>().await?;
                $({
                    let query = concat!("SELECT ", $text);
                    let mut rows = conn.fetch(query);
                    let row = rows.try_next().await?.unwrap();
                    let read = row.try_get::<$ty, _>(0)?;
                    assert_eq!($value, read, "{query}");
                })+
                Ok(())
            }
        }
    };
}

/// The query says whether the first parameter is what the literal says, and gives the
/// literal and the second parameter back.
#[macro_export]
macro_rules! round_trip {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($text:literal == $value:expr),+ $(,)?)) => {
        paste::item! {
            #[sqlx::test]
            async fn [<test_prepared_type_ $name>]() -> anyhow::Result<()> {
                use sqlx::Row;
                let mut conn = $crate::new::<$db>().await?;
                $({
                    let query = format!($sql, $text);
                    let row = sqlx::query(&query).bind($value).bind($value).fetch_one(&mut conn).await?;
                    let matches: i32 = row.try_get(0)?;
                    let literal: $ty = row.try_get(1)?;
                    let round_trip: $ty = row.try_get(2)?;
                    assert!(matches != 0, "{query}: {:?} is not {:?}", literal, round_trip);
                    assert_eq!($value, literal, "{query}");
                    assert_eq!($value, round_trip, "{query}");
                })+
                Ok(())
            }
        }
    };
}

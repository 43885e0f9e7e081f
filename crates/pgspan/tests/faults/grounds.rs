//! What a plan rests on cannot be forged by the client, and what is told of now is of now.

use crate::client::{Client, message};
use crate::world::{Turn, becomes, route, turn};

/// A server with a mapping of its own, and a table there that the gateway has seen made.
fn make_server(world: &Turn, client: &mut Client) {
    world.at_home(&format!(
        "DROP SERVER IF EXISTS forged CASCADE;
         DO $$ BEGIN EXECUTE pg_catalog.format('CREATE SERVER forged FOREIGN DATA WRAPPER postgres_fdw OPTIONS (%s)',
           (SELECT pg_catalog.string_agg(pg_catalog.split_part(o, '=', 1) || ' ' || pg_catalog.quote_literal(pg_catalog.split_part(o, '=', 2)), ', ')
            FROM pg_foreign_server s, pg_catalog.unnest(s.srvoptions) o WHERE s.srvname = 'orders')); END $$;
         CREATE USER MAPPING FOR postgres SERVER forged OPTIONS (user 'postgres', password '{}')",
        world.password()
    ));
    let table = "CREATE FOREIGN TABLE forged_small (id int, name text) SERVER forged OPTIONS (table_name 'small')";
    assert_eq!(client.query(table).code(), "ok");
}

/// Has every question about user mappings answered with what home answered just now, but for
/// the snapshot.
const FORGE: &str = "DO $$ DECLARE n text; q text; cols text; names boolean; BEGIN
  FOR n, q IN SELECT name, statement FROM pg_prepared_statements WHERE NOT from_sql AND statement LIKE '%pg_user_mapping%' LOOP
    DROP TABLE IF EXISTS noted;
    names := q LIKE '%$1%';
    IF names THEN
      EXECUTE 'CREATE TEMPORARY TABLE noted (a) AS ' || replace(q, '$1', quote_literal('{forged_small,people}'));
    ELSE
      EXECUTE 'CREATE TEMPORARY TABLE noted (a, b, c, d) AS ' || q;
    END IF;
    SELECT string_agg(CASE attname WHEN 'pg_current_snapshot' THEN 'pg_current_snapshot()::text' ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
      INTO cols FROM pg_attribute WHERE attrelid = 'noted'::regclass AND attnum > 0;
    EXECUTE format('DEALLOCATE %I', n);
    EXECUTE format('PREPARE %I %s AS SELECT %s FROM noted', n, CASE WHEN names THEN '(text[])' END, cols);
  END LOOP; END $$";

#[test]
fn a_client_does_not_answer_for_its_own_rights() {
    let world = turn();
    let mut client = world.connect();
    make_server(&world, &mut client);
    assert_eq!(client.query("CREATE TEMPORARY TABLE noted (x int)").code(), "ok");
    let sql = "SELECT p.who, f.name FROM forged_small f JOIN people p USING (id)";
    for _ in 0..3 {
        assert_eq!(client.query(sql).code(), "ok");
        assert_eq!(route(&mut client), "home_join");
    }
    assert_eq!(client.query(FORGE).code(), "ok");
    world.at_home("DROP USER MAPPING FOR postgres SERVER forged");
    let answer = client.query(sql);
    assert_eq!(answer.code(), "42704", "{answer:?}");
    drop(client);
    world.at_home("DROP SERVER forged CASCADE");
    world.assert_settled();
}

/// Binds and executes a named statement; its first value.
fn execute(client: &mut Client, name: &str) -> String {
    let mut bytes = message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes());
    bytes.extend(message(b'E', &[0; 5]));
    bytes.extend(message(b'S', &[]));
    client.send(&bytes).unwrap();
    let answer = client.finish();
    assert_eq!(answer.code(), "ok", "{answer:?}");
    answer.rows.into_iter().next().unwrap_or_default()
}

#[test]
fn a_prepared_show_tells_of_now() {
    let world = turn();
    let mut client = world.connect();
    let mut bytes = message(b'P', b"told\0SHOW pgspan.last_route\0\0\0");
    bytes.extend(message(b'S', &[]));
    client.send(&bytes).unwrap();
    assert_eq!(client.finish().code(), "ok");
    for (sql, strategy) in [
        ("SELECT p.who, s.name FROM small s JOIN people p USING (id)", "home_join"),
        ("SELECT 1", "relay"),
        ("SELECT p.who, s.name FROM small s JOIN people p USING (id)", "home_join"),
    ] {
        assert_eq!(client.query(sql).code(), "ok");
        assert_eq!(execute(&mut client, "told"), strategy);
    }
    drop(client);
    world.assert_settled();
}

/// A statement that home reads otherwise with `transform_null_equals`: with it on, no `who` is
/// NULL; otherwise nobody knows. Asked so often at a home that stands still that the gateway has
/// no need to ask for the settings.
const UNKNOWN: &str =
    "SELECT count(*) FROM small s JOIN people p USING (id) WHERE (p.who = NULL) IS NULL";

fn ask_often(client: &mut Client, unknown: &str) {
    for _ in 0..6 {
        assert_eq!(client.value(UNKNOWN), unknown);
    }
    assert_eq!(route(client), "home_join");
}

#[test]
fn settings_are_seen_to_change_however_they_do() {
    let world = turn();
    world.at_home(
        "CREATE FUNCTION turns_it(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('transform_null_equals', $1, false) $$",
    );
    let mut client = world.connect();
    for way in [
        "SET transform_null_equals = on",
        "SELECT turns_it('on')",
        "SELECT 1; SELECT turns_it('on')",
        "DO $$ BEGIN PERFORM turns_it('on'); END $$",
        "SELECT turns_it('on'), s.name FROM small s LIMIT 1",
        "EXPLAIN ANALYZE SELECT turns_it('on'), s.name FROM small s LIMIT 1",
        "EXPLAIN ANALYZE SELECT turns_it('on')",
    ] {
        ask_often(&mut client, "100");
        assert_eq!(client.query(way).code(), "ok");
        assert_eq!(client.value(UNKNOWN), "0", "{way}");
        ask_often(&mut client, "0");
        assert_eq!(client.query("RESET transform_null_equals").code(), "ok");
    }
    drop(client);
    // A configuration that is read again leaves no trace in any snapshot.
    let mut client = world.connect();
    for (set, before, behind) in [
        ("SET transform_null_equals = on", "100", "0"),
        ("RESET transform_null_equals", "0", "100"),
    ] {
        ask_often(&mut client, before);
        world.at_home(&format!("ALTER SYSTEM {set}"));
        world.at_home("SELECT pg_reload_conf()");
        becomes("what is unknown", behind, || client.value(UNKNOWN));
    }
    drop(client);
    world.at_home("DROP FUNCTION turns_it");
    world.assert_settled();
}

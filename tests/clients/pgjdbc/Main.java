// pgjdbc: the common statements in each query mode, fetch size, the switch-over to
// named statements, batches, metadata, COPY, notifications, cancel, savepoints.

import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public final class Main {
    static final String JOIN =
            "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id";
    static final String ORDERS = "SELECT count(*), sum(total_amount) FROM remote_orders";

    public static void main(String[] words) throws Exception {
        List<Json.Statement> statements = Json.statements(System.getenv("STATEMENTS"));
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection conn = connect("preferQueryMode", mode, "prepareThreshold", "3")) {
                // The third execution of a text is prepared at the server under a name.
                for (int round = 1; round <= (mode.equals("extended") ? 5 : 1); round++) {
                    for (Json.Statement statement : statements) {
                        Record.test(mode + " " + round + ": " + statement.name, () -> play(conn, statement));
                    }
                }
            }
        }
        try (Connection conn = connect("prepareThreshold", "-1", "binaryTransfer", "true")) {
            for (Json.Statement statement : statements) {
                Record.test("binary from the start: " + statement.name, () -> play(conn, statement));
            }
        }
        Record.test("fetch size", Main::fetchSize);
        Record.test("switch to a named statement", Main::switchOver);
        Record.test("batches", Main::batches);
        Record.test("transactions and savepoints", Main::transactions);
        Record.test("autosave", Main::autosave);
        Record.test("DDL between executions", Main::ddl);
        Record.test("copy", Main::copies);
        Record.test("notifications and notices", Main::notifications);
        Record.test("cancel and timeout", Main::cancels);
        Record.test("generated keys and calls", Main::calls);
        Record.test("updatable result set", Main::updatable);
        Record.test("parameters of every kind", Main::parameters);
        Record.test("multiple statements", Main::several);
        Record.test("properties of the session", Main::session);
        Metadata.run();
    }

    static Connection connect(String... properties) throws SQLException {
        Properties all = new Properties();
        all.setProperty("user", System.getenv("PGUSER"));
        all.setProperty("password", System.getenv("PGPASSWORD"));
        for (int i = 0; i < properties.length; i += 2) {
            all.setProperty(properties[i], properties[i + 1]);
        }
        String place = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:postgresql://" + place + "/" + System.getenv("PGDATABASE"), all);
    }

    static Connection source() throws SQLException {
        String place = System.getenv("SOURCE_HOST") + ":" + System.getenv("SOURCE_PORT");
        return DriverManager.getConnection(
                "jdbc:postgresql://" + place + "/clients_source", System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
    }

    static Object play(Connection conn, Json.Statement statement) throws Exception {
        Object seen;
        String state = null;
        try {
            if (statement.params.isEmpty()) {
                try (Statement plain = conn.createStatement()) {
                    seen = results(plain, plain.execute(statement.sql));
                }
            } else {
                // A question mark is JDBC's parameter; the data file has none elsewhere.
                try (PreparedStatement ready = conn.prepareStatement(statement.sql.replaceAll("\\$\\d", "?"))) {
                    for (int i = 0; i < statement.params.size(); i++) {
                        ready.setObject(i + 1, statement.params.get(i));
                    }
                    seen = results(ready, ready.execute());
                }
            }
        } catch (SQLException error) {
            state = error.getSQLState();
            seen = Record.error(error);
        }
        if (statement.error == null ? state != null : !statement.error.equals(state)) {
            throw new IllegalStateException("SQLSTATE " + state + ", wanted " + statement.error + ": " + Record.json(seen));
        }
        return seen;
    }

    /** Every result of a statement. */
    static List<Object> results(Statement statement, boolean first) throws SQLException {
        List<Object> seen = new ArrayList<>();
        boolean rows = first;
        while (rows || statement.getUpdateCount() >= 0) {
            seen.add(rows ? Record.rows(statement.getResultSet()) : statement.getUpdateCount());
            rows = statement.getMoreResults();
        }
        return seen;
    }

    static Object query(Connection conn, String sql, Object... params) {
        try (PreparedStatement ready = conn.prepareStatement(sql)) {
            for (int i = 0; i < params.length; i++) {
                ready.setObject(i + 1, params[i]);
            }
            return results(ready, ready.execute());
        } catch (SQLException error) {
            return Record.error(error);
        }
    }

    static Object fetchSize() throws Exception {
        List<Object> seen = new ArrayList<>();
        for (String sql : new String[] {JOIN, "SELECT id, name FROM remote_many ORDER BY id LIMIT 500",
                "SELECT m.id, u.username FROM remote_many m LEFT JOIN users u ON u.user_id = m.id ORDER BY m.id",
                "SELECT user_id FROM users ORDER BY 1", "SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id"}) {
            try (Connection conn = connect()) {
                conn.setAutoCommit(false);
                for (int size : new int[] {1, 3, 100}) {
                    try (Statement statement = conn.createStatement()) {
                        statement.setFetchSize(size);
                        try (ResultSet rows = statement.executeQuery(sql)) {
                            seen.add(Record.rows(rows));
                        }
                        // Another query while a portal is half read.
                        try (ResultSet half = statement.executeQuery(sql)) {
                            half.next();
                            seen.add(query(conn, JOIN));
                            seen.add(half.getObject(1));
                            seen.add(half.next());
                        }
                        conn.commit();
                    } catch (SQLException error) {
                        seen.add(Record.error(error));
                        conn.rollback();
                    }
                }
            }
        }
        return seen;
    }

    static Object switchOver() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect();
                PreparedStatement join = conn.prepareStatement("SELECT u.username, o.* FROM users u JOIN remote_orders o USING (user_id) WHERE o.order_id = ?");
                PreparedStatement direct = conn.prepareStatement("SELECT product_name, total_amount FROM remote_orders WHERE order_id > ? ORDER BY order_id")) {
            for (int i = 0; i < 14; i++) {
                for (PreparedStatement one : new PreparedStatement[] {join, direct}) {
                    one.setInt(1, i % 7);
                    try (ResultSet rows = one.executeQuery()) {
                        seen.add(Record.rows(rows));
                    }
                    seen.add(one.getParameterMetaData().getParameterTypeName(1));
                }
            }
        }
        return seen;
    }

    static Object batches() throws Exception {
        List<Object> seen = new ArrayList<>();
        for (String rewrite : new String[] {"false", "true"}) {
            try (Connection conn = connect("reWriteBatchedInserts", rewrite)) {
                for (String table : new String[] {"notes", "remote_notes"}) {
                    for (int last : new int[] {10499, 10200}) {
                        try (PreparedStatement insert = conn.prepareStatement("INSERT INTO " + table + " (id, body) VALUES (?, ?)")) {
                            for (int id = 10400; id <= 10450; id++) {
                                insert.setInt(1, id == 10430 ? last : id);
                                insert.setString(2, "batch");
                                insert.addBatch();
                            }
                            seen.add(insert.executeBatch());
                        } catch (SQLException error) {
                            seen.add(Record.error(error));
                        }
                        seen.add(query(conn, "SELECT count(*) FROM " + table + " WHERE id >= 10000"));
                    }
                    seen.add(query(conn, "DELETE FROM " + table + " WHERE id >= 10000"));
                }
                try (Statement statement = conn.createStatement()) {
                    statement.addBatch("INSERT INTO notes (body) VALUES ('a')");
                    statement.addBatch("INSERT INTO notes (body) SELECT product_name FROM remote_orders");
                    statement.addBatch("DELETE FROM notes WHERE body IN (SELECT product_name FROM remote_orders)");
                    seen.add(statement.executeBatch());
                }
            }
        }
        return seen;
    }

    static Object transactions() throws Exception {
        List<Object> seen = new ArrayList<>();
        for (int level : new int[] {Connection.TRANSACTION_READ_COMMITTED, Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE}) {
            for (boolean readOnly : new boolean[] {false, true}) {
                try (Connection conn = connect()) {
                    conn.setTransactionIsolation(level);
                    conn.setReadOnly(readOnly);
                    conn.setAutoCommit(false);
                    seen.add(query(conn, JOIN));
                    seen.add(query(conn, "INSERT INTO notes (body) VALUES ('jdbc') RETURNING body"));
                    seen.add(query(conn, ORDERS));
                    conn.rollback();
                    seen.add(query(conn, JOIN));
                    Savepoint point = conn.setSavepoint("point");
                    seen.add(query(conn, "SELECT 1 / (order_id - 3) FROM remote_orders"));
                    seen.add(query(conn, ORDERS));
                    conn.rollback(point);
                    seen.add(query(conn, ORDERS));
                    conn.releaseSavepoint(point);
                    conn.commit();
                    seen.add(query(conn, ORDERS));
                }
            }
        }
        return seen;
    }

    static Object autosave() throws Exception {
        List<Object> seen = new ArrayList<>();
        for (String mode : new String[] {"always", "conservative"}) {
            try (Connection conn = connect("autosave", mode, "prepareThreshold", "2")) {
                conn.setAutoCommit(false);
                for (int i = 0; i < 4; i++) {
                    seen.add(query(conn, JOIN));
                    seen.add(query(conn, "SELECT 1 / (order_id - 3) FROM remote_orders"));
                }
                conn.rollback();
            }
        }
        return seen;
    }

    static Object ddl() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect("prepareThreshold", "2"); Connection other = connect(); Connection far = source();
                PreparedStatement all = conn.prepareStatement("SELECT * FROM remote_shrinking");
                PreparedStatement join = conn.prepareStatement("SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id")) {
            query(far, "ALTER TABLE shrinking ADD extra int DEFAULT 5");
            for (String change : new String[] {"SELECT 1", "ALTER FOREIGN TABLE remote_shrinking ADD extra int", "ALTER FOREIGN TABLE remote_shrinking DROP extra",
                    "ALTER FOREIGN TABLE remote_shrinking RENAME name TO title", "ALTER FOREIGN TABLE remote_shrinking RENAME title TO name", "DROP FOREIGN TABLE remote_shrinking"}) {
                seen.add(query(other, change));
                for (int i = 0; i < 4; i++) {
                    for (PreparedStatement one : new PreparedStatement[] {all, join}) {
                        try (ResultSet rows = one.executeQuery()) {
                            seen.add(Record.rows(rows));
                        } catch (SQLException error) {
                            seen.add(Record.error(error));
                        }
                    }
                }
            }
        }
        return seen;
    }

    static Object copies() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect()) {
            CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
            for (String sql : new String[] {JOIN, ORDERS, "SELECT missing FROM remote_orders", "SELECT * FROM users ORDER BY 1"}) {
                for (String options : new String[] {"", " (FORMAT csv, HEADER)", " (FORMAT binary)"}) {
                    java.io.ByteArrayOutputStream sink = new java.io.ByteArrayOutputStream();
                    try {
                        seen.add(copy.copyOut("COPY (" + sql + ") TO STDOUT" + options, sink));
                    } catch (SQLException error) {
                        seen.add(Record.error(error));
                    }
                    seen.add(java.util.HexFormat.of().formatHex(sink.toByteArray()));
                }
            }
            for (String table : new String[] {"notes", "remote_notes"}) {
                for (String text : new String[] {"11000\tone\n11001\ttwo\n", "11002\tthree\nx\ty\n"}) {
                    try {
                        seen.add(copy.copyIn("COPY " + table + " (id, body) FROM STDIN", new java.io.StringReader(text)));
                    } catch (SQLException error) {
                        seen.add(Record.error(error));
                    }
                }
                org.postgresql.copy.CopyIn given = copy.copyIn("COPY " + table + " (id, body) FROM STDIN");
                given.writeToCopy("11009\tx\n".getBytes("UTF-8"), 0, 8);
                try {
                    given.cancelCopy();
                } catch (SQLException error) {
                    seen.add(Record.error(error));
                }
                seen.add(query(conn, "SELECT id, body FROM " + table + " WHERE id >= 11000 ORDER BY id"));
                seen.add(query(conn, "DELETE FROM " + table + " WHERE id >= 11000"));
            }
        }
        return seen;
    }

    static Object notifications() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect(); Connection other = connect(); Statement statement = conn.createStatement()) {
            statement.execute("LISTEN news");
            query(other, "SELECT pg_notify('news', 'one')");
            query(conn, "SELECT pg_notify('news', 'own')");
            int wanted = 2;
            while (wanted > 0) {
                for (org.postgresql.PGNotification one : conn.unwrap(PGConnection.class).getNotifications(10000)) {
                    seen.add(one.getName() + ": " + one.getParameter());
                    wanted--;
                }
            }
            for (String sql : new String[] {"SELECT complain('hear', 0)", "SELECT complain(product_name, 1) FROM remote_orders ORDER BY order_id"}) {
                statement.execute(sql);
                for (java.sql.SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) {
                    seen.add(warning.getMessage() + " " + warning.getSQLState());
                }
            }
        }
        return seen;
    }

    static Object cancels() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect(); Connection far = source(); Statement statement = conn.createStatement()) {
            far.setAutoCommit(false);
            query(far, "LOCK TABLE many");
            for (String sql : new String[] {"SELECT pg_sleep(30)", "SELECT count(*) FROM remote_many",
                    "SELECT m.name, u.username FROM remote_many m JOIN users u ON u.user_id = m.id"}) {
                for (boolean timeout : new boolean[] {false, true}) {
                    statement.setQueryTimeout(timeout ? 1 : 0);
                    Thread stopper = new Thread(() -> {
                        try {
                            Thread.sleep(500);
                            statement.cancel();
                        } catch (InterruptedException | SQLException error) {
                            throw new IllegalStateException(error);
                        }
                    });
                    if (!timeout) {
                        stopper.start();
                    }
                    try {
                        seen.add(results(statement, statement.execute(sql)));
                    } catch (SQLException error) {
                        seen.add(Record.error(error));
                    }
                    stopper.join();
                    seen.add(query(conn, JOIN));
                }
            }
            far.rollback();
        }
        return seen;
    }

    static Object calls() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect(); Statement statement = conn.createStatement()) {
            for (String table : new String[] {"notes", "remote_notes"}) {
                statement.executeUpdate("INSERT INTO " + table + " (id, body) VALUES (12000, 'key')", Statement.RETURN_GENERATED_KEYS);
                try (ResultSet keys = statement.getGeneratedKeys()) {
                    seen.add(Record.rows(keys));
                }
                seen.add(statement.executeUpdate("DELETE FROM " + table + " WHERE id = 12000"));
            }
            try (CallableStatement call = conn.prepareCall("{? = call order_count(?)}")) {
                call.registerOutParameter(1, java.sql.Types.BIGINT);
                call.setInt(2, 1);
                call.execute();
                seen.add(call.getLong(1));
            }
            seen.add(query(conn, "SELECT {fn length(product_name)} FROM remote_orders ORDER BY order_id"));
        }
        return seen;
    }

    static Object updatable() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect()) {
            query(conn, "INSERT INTO notes (id, body) VALUES (13000, 'before')");
            try (Statement statement = conn.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                    ResultSet rows = statement.executeQuery("SELECT id, body FROM notes WHERE id >= 13000")) {
                rows.next();
                rows.updateString(2, "after");
                rows.updateRow();
                rows.moveToInsertRow();
                rows.updateInt(1, 13001);
                rows.updateString(2, "inserted");
                rows.insertRow();
            }
            try (Statement statement = conn.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY);
                    ResultSet rows = statement.executeQuery(JOIN)) {
                rows.last();
                seen.add(rows.getRow());
                rows.absolute(2);
                seen.add(rows.getString(2));
            }
            seen.add(query(conn, "DELETE FROM notes WHERE id >= 13000 RETURNING id, body"));
        }
        return seen;
    }

    static Object parameters() throws Exception {
        List<Object> seen = new ArrayList<>();
        for (String threshold : new String[] {"0", "-1"}) {
            try (Connection conn = connect("prepareThreshold", threshold)) {
                Object[][] values = {{"i2", (short) 1}, {"i8", 9007199254740993L}, {"f4", 0.1f}, {"f8", 0.1d}, {"n", new java.math.BigDecimal("1.10")},
                    {"b", true}, {"t", "plain"}, {"v", "vary"}, {"by", new byte[] {0, (byte) 255, 16}}, {"d", java.time.LocalDate.of(2024, 2, 29)},
                    {"ti", java.time.LocalTime.of(23, 59, 59, 500000000)}, {"ts", java.time.LocalDateTime.of(2024, 2, 29, 23, 59, 59, 123456000)},
                    {"tz", java.time.OffsetDateTime.of(2024, 2, 29, 23, 59, 59, 0, java.time.ZoneOffset.UTC)}, {"u", new java.util.UUID(0, 1)},
                    {"ia", conn.createArrayOf("int4", new Integer[] {1, null, 3})}, {"ta", conn.createArrayOf("text", new String[] {"a", "b c", null})}};
                for (Object[] value : values) {
                    String name = (String) value[0];
                    seen.add(query(conn, "SELECT id, " + name + " FROM remote_kinds WHERE " + name + " = ?", value[1]));
                    seen.add(query(conn, "SELECT id, " + name + ", username FROM remote_kinds JOIN users ON user_id = id WHERE " + name + " = ?", value[1]));
                }
                seen.add(query(conn, "SELECT id FROM remote_kinds WHERE i8 = ?", "not a number"));
            }
        }
        return seen;
    }

    static Object several() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect()) {
            seen.add(query(conn, "SELECT 1; " + JOIN + "; SELECT 2"));
            seen.add(query(conn, ORDERS + "; SELECT 1/0; SELECT 2"));
            seen.add(query(conn, "INSERT INTO notes (body) SELECT product_name FROM remote_orders; " + ORDERS + "; DELETE FROM notes"));
            seen.add(query(conn, ""));
        }
        return seen;
    }

    static Object session() throws Exception {
        List<Object> seen = new ArrayList<>();
        try (Connection conn = connect("ApplicationName", "jdbc", "options", "-c statement_timeout=10s", "currentSchema", "public")) {
            seen.add(conn.getSchema());
            seen.add(conn.getCatalog());
            seen.add(conn.isValid(5));
            conn.setClientInfo("ApplicationName", "changed");
            seen.add(query(conn, "SELECT current_setting('application_name'), current_setting('statement_timeout')"));
            conn.setSchema("pg_catalog");
            seen.add(query(conn, "SELECT count(*) FROM public.remote_orders"));
            seen.add(query(conn, ORDERS));
            seen.add(new java.util.TreeMap<>(conn.unwrap(PGConnection.class).getParameterStatuses()).toString());
        }
        return seen;
    }
}

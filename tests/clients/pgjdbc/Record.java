// One line of JSON for each test, and what a result set or an error shows.

import java.sql.BatchUpdateException;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

final class Record {
    private Record() {}

    static void test(String name, Callable<Object> run) {
        String outcome;
        try {
            outcome = "\"value\": " + json(run.call());
        } catch (Exception | AssertionError error) {
            java.io.StringWriter trace = new java.io.StringWriter();
            error.printStackTrace(new java.io.PrintWriter(trace));
            outcome = "\"broken\": " + json(trace.toString());
        }
        byte[] line = ("{\"test\": " + json(name) + ", " + outcome + "}\n").getBytes(java.nio.charset.StandardCharsets.UTF_8);
        System.out.write(line, 0, line.length);
        System.out.flush();
    }

    /** Columns and rows; values as the driver makes them, and as text. */
    static Map<String, Object> rows(ResultSet set) throws SQLException {
        Map<String, Object> seen = new LinkedHashMap<>();
        ResultSetMetaData meta = set.getMetaData();
        List<Object> columns = new ArrayList<>();
        for (int i = 1; i <= meta.getColumnCount(); i++) {
            columns.add(Arrays.asList(meta.getColumnLabel(i), meta.getColumnTypeName(i), meta.getColumnClassName(i), meta.getPrecision(i),
                    meta.getScale(i), meta.getColumnDisplaySize(i), meta.getTableName(i), meta.getColumnName(i), meta.isNullable(i), meta.isAutoIncrement(i)));
        }
        seen.put("columns", columns);
        List<Object> rows = new ArrayList<>();
        while (set.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= meta.getColumnCount(); i++) {
                Object value = set.getObject(i);
                row.add(value == null ? null : value.getClass().getSimpleName());
                row.add(value instanceof byte[] bytes ? java.util.HexFormat.of().formatHex(bytes) : set.getString(i));
            }
            rows.add(row);
        }
        seen.put("rows", rows);
        return seen;
    }

    static Map<String, Object> error(SQLException error) {
        Map<String, Object> seen = new LinkedHashMap<>();
        seen.put("class", error.getClass().getSimpleName());
        seen.put("state", error.getSQLState());
        seen.put("message", error.getMessage());
        if (error instanceof BatchUpdateException batch) {
            seen.put("counts", batch.getUpdateCounts());
        }
        ServerErrorMessage server = error instanceof PSQLException own ? own.getServerErrorMessage() : null;
        if (server != null) {
            seen.put("server", Arrays.asList(server.getSeverity(), server.getDetail(), server.getHint(), server.getPosition(), server.getInternalPosition(),
                    server.getInternalQuery(), server.getWhere(), server.getSchema(), server.getTable(), server.getColumn(), server.getConstraint(), server.getDatatype()));
        }
        return seen;
    }

    static String json(Object value) {
        if (value == null || value instanceof Boolean || value instanceof Integer) {
            return String.valueOf(value);
        }
        if (value instanceof int[] numbers) {
            return Arrays.toString(numbers);
        }
        if (value instanceof List<?> list) {
            List<String> parts = new ArrayList<>();
            list.forEach(one -> parts.add(json(one)));
            return "[" + String.join(", ", parts) + "]";
        }
        if (value instanceof Map<?, ?> map) {
            List<String> parts = new ArrayList<>();
            map.forEach((name, one) -> parts.add(json(name.toString()) + ": " + json(one)));
            return "{" + String.join(", ", parts) + "}";
        }
        StringBuilder text = new StringBuilder("\"");
        for (char c : value.toString().toCharArray()) {
            if (c == '"' || c == '\\') {
                text.append('\\').append(c);
            } else if (c < ' ') {
                text.append(String.format("\\u%04x", (int) c));
            } else {
                text.append(c);
            }
        }
        return text.append('"').toString();
    }
}

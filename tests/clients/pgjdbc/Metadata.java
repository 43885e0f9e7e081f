// DatabaseMetaData: what tools ask of the catalogs.

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.util.Arrays;

final class Metadata {
    private Metadata() {}

    static void run() throws Exception {
        try (Connection conn = Main.connect()) {
            DatabaseMetaData meta = conn.getMetaData();
            Record.test("metadata: product", () -> Arrays.asList(meta.getDatabaseProductName(), meta.getDatabaseProductVersion(),
                    meta.getMaxColumnNameLength(), meta.getSQLKeywords(), meta.getDefaultTransactionIsolation(), meta.isReadOnly(), meta.getUserName()));
            Record.test("metadata: catalogs", () -> meta.getCatalogs() == null ? null : Record.rows(meta.getSchemas()));
            Record.test("metadata: tables", () -> Record.rows(meta.getTables(null, "public", "%", null)));
            Record.test("metadata: foreign tables", () -> Record.rows(meta.getTables(null, null, "remote%", new String[] {"FOREIGN TABLE"})));
            Record.test("metadata: columns", () -> Record.rows(meta.getColumns(null, "public", "%", "%")));
            Record.test("metadata: primary keys", () -> Record.rows(meta.getPrimaryKeys(null, "public", "users")));
            Record.test("metadata: indexes", () -> Record.rows(meta.getIndexInfo(null, "public", "users", false, true)));
            Record.test("metadata: imported keys", () -> Record.rows(meta.getImportedKeys(null, "public", "notes")));
            Record.test("metadata: exported keys", () -> Record.rows(meta.getExportedKeys(null, "public", "users")));
            Record.test("metadata: best row", () -> Record.rows(meta.getBestRowIdentifier(null, "public", "users", 0, true)));
            Record.test("metadata: privileges", () -> Record.rows(meta.getTablePrivileges(null, "public", "%")));
            Record.test("metadata: column privileges", () -> Record.rows(meta.getColumnPrivileges(null, "public", "users", "%")));
            Record.test("metadata: procedures", () -> Record.rows(meta.getProcedures(null, "public", "%")));
            Record.test("metadata: procedure columns", () -> Record.rows(meta.getProcedureColumns(null, "public", "%", "%")));
            Record.test("metadata: functions", () -> Record.rows(meta.getFunctions(null, "public", "%")));
            Record.test("metadata: function columns", () -> Record.rows(meta.getFunctionColumns(null, "public", "%", "%")));
            Record.test("metadata: types", () -> Record.rows(meta.getTypeInfo()));
            Record.test("metadata: user types", () -> Record.rows(meta.getUDTs(null, "public", "%", null)));
            Record.test("metadata: table types", () -> Record.rows(meta.getTableTypes()));
            Record.test("metadata: client info", () -> Record.rows(meta.getClientInfoProperties()));
        }
    }
}

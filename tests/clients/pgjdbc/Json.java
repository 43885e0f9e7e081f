// Reads the common statements: strings, numbers, null, arrays and objects are all
// that the file has.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

final class Json {
    /** One of the common statements. */
    static final class Statement {
        final String name;
        final String sql;
        final String error;
        final List<Object> params = new ArrayList<>();

        Statement(Map<?, ?> read) {
            name = (String) read.get("name");
            sql = (String) read.get("sql");
            error = (String) read.get("error");
            if (read.get("params") instanceof List<?> given) {
                params.addAll(given);
            }
        }
    }

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    static List<Statement> statements(String path) throws Exception {
        List<Statement> all = new ArrayList<>();
        for (Object one : (List<?>) new Json(Files.readString(Path.of(path))).value()) {
            all.add(new Statement((Map<?, ?>) one));
        }
        return all;
    }

    private char next() {
        while (Character.isWhitespace(text.charAt(at)) || text.charAt(at) == ',' || text.charAt(at) == ':') {
            at++;
        }
        return text.charAt(at);
    }

    private Object value() {
        switch (next()) {
            case '[' -> {
                List<Object> list = new ArrayList<>();
                at++;
                while (next() != ']') {
                    list.add(value());
                }
                at++;
                return list;
            }
            case '{' -> {
                Map<String, Object> map = new LinkedHashMap<>();
                at++;
                while (next() != '}') {
                    String name = (String) value();
                    map.put(name, value());
                }
                at++;
                return map;
            }
            case '"' -> {
                return string();
            }
            case 'n' -> {
                at += 4;
                return null;
            }
            default -> {
                int start = at;
                while (Character.isDigit(text.charAt(at)) || text.charAt(at) == '-') {
                    at++;
                }
                return Integer.valueOf(text.substring(start, at));
            }
        }
    }

    private String string() {
        StringBuilder read = new StringBuilder();
        at++;
        while (text.charAt(at) != '"') {
            if (text.charAt(at) == '\\') {
                at++;
            }
            read.append(text.charAt(at++));
        }
        at++;
        return read.toString();
    }
}

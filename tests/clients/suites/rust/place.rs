//! Where the server is that the tests were written for at `localhost:5433`, where the role
//! `postgres` has no password. Every such text of the tests is passed through `place`.

pub fn place(text: &str) -> &'static str {
    let variable = |name: &str| std::env::var(name).unwrap();
    let mut text = text.replace("5433", &variable("PGPORT"));
    for host in ["localhost", "127.0.0.1"] {
        text = text.replace(host, &variable("PGHOST"));
    }
    if text.contains("user=postgres") {
        text.push_str(&format!(" password='{}'", variable("PGPASSWORD")));
        if !text.contains("dbname=") {
            text.push_str(&format!(" dbname='{}'", variable("PGDATABASE")));
        }
    }
    text.leak()
}

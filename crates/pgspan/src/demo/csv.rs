//! Reads the CSV that psql writes.

/// The records of a CSV text.
pub fn parse(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match (quoted, char) {
            (true, '"') if chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            (_, '"') => quoted = !quoted,
            (false, ',') => record.push(std::mem::take(&mut field)),
            (false, '\n') => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            (_, char) => field.push(char),
        }
    }
    record.push(field);
    records.push(record);
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_line_ends() {
        let records = parse("a,b\n\"x,\"\"y\"\"\",\"two\nlines\"\n,");
        assert_eq!(records, [vec!["a", "b"], vec!["x,\"y\"", "two\nlines"], vec!["", ""]]);
    }
}

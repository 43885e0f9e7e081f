//! `${name}`: what `let`, `foreach` and the running world put in place of it.

use crate::case_file::{Query, Scenario};

/// Names and what stands for them.
pub type Bindings = Vec<(String, String)>;

/// Replaces every `${name}` that is bound; others stay, for the world to replace.
pub fn substitute(text: &str, bindings: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in bindings {
        let place = format!("${{{name}}}");
        if text.contains(&place) {
            text = text.replace(&place, value);
        }
    }
    text
}

/// The first `${name}` that nothing has replaced.
pub fn unbound(text: &str) -> Option<&str> {
    let start = text.find("${")?;
    let end = text[start..].find('}')?;
    Some(&text[start..=start + end])
}

/// Every combination of the values of `foreach`, each with the `let` bindings.
pub fn product(lets: &Bindings, each: &[(String, Vec<String>)]) -> Vec<Choice> {
    let mut choices = vec![Choice { bindings: lets.clone(), chosen: Vec::new() }];
    for (name, values) in each {
        choices = choices
            .iter()
            .flat_map(|choice| {
                values.iter().map(move |value| {
                    let mut next = choice.clone();
                    // A value may speak of a name chosen before it.
                    let value = substitute(value, &next.bindings);
                    next.choose(name, &value);
                    next
                })
            })
            .collect();
    }
    choices
}

/// One combination.
#[derive(Debug, Clone)]
pub struct Choice {
    bindings: Bindings,
    chosen: Bindings,
}

impl Choice {
    /// Binds a name, or several: `(a; b)` takes the parts of `1; 2`.
    fn choose(&mut self, name: &str, value: &str) {
        match name.strip_prefix('(').and_then(|names| names.strip_suffix(')')) {
            Some(names) => {
                for (name, part) in names.split(';').zip(value.split(';')) {
                    self.choose(name.trim(), part.trim());
                }
            }
            None => {
                self.bindings.push((name.to_owned(), value.to_owned()));
                self.chosen.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn text(&self, text: &str) -> String {
        // Twice: a bound text may itself speak of a chosen name.
        substitute(&substitute(text, &self.bindings), &self.bindings)
    }

    /// The label, with the chosen values that it does not mention itself.
    fn label(&self, label: &str) -> String {
        let unnamed: Vec<&str> = self
            .chosen
            .iter()
            .filter(|(name, _)| !label.contains(&format!("${{{name}}}")))
            .map(|(_, value)| value.as_str())
            .collect();
        let label = self.text(label);
        if unnamed.is_empty() { label } else { format!("{label} [{}]", unnamed.join(", ")) }
    }
}

impl Query {
    /// This query with everything replaced.
    #[must_use]
    pub fn expanded(&self, choice: &Choice) -> Query {
        let mut query = self.clone();
        query.label = choice.label(&self.label);
        query.sql = choice.text(&self.sql);
        query.before = self.before.iter().map(|text| choice.text(text)).collect();
        for param in &mut query.params {
            param.type_name = choice.text(&param.type_name);
            param.value = param.value.as_ref().map(|value| choice.text(value));
            if param.value.as_deref() == Some("NULL") {
                param.value = None;
            }
        }
        query
    }
}

impl Scenario {
    /// This scenario with everything replaced.
    #[must_use]
    pub fn expanded(&self, choice: &Choice) -> Scenario {
        let mut scenario = self.clone();
        scenario.label = choice.label(&self.label);
        for step in &mut scenario.steps {
            step.text = choice.text(&step.text);
        }
        scenario
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_complete() {
        let each = vec![
            ("a".to_owned(), vec!["1".to_owned(), "2".to_owned()]),
            ("b".to_owned(), vec!["x${a}".to_owned(), "y".to_owned()]),
        ];
        let choices = product(&Vec::new(), &each);
        let texts: Vec<String> = choices.iter().map(|c| c.text("${a}${b}")).collect();
        assert_eq!(texts, ["1x1", "1y", "2x2", "2y"]);
        assert_eq!(choices[0].label("case ${a}"), "case 1 [x1]");
    }

    #[test]
    fn several_names_are_bound_at_once() {
        let each = vec![("(a; b)".to_owned(), vec!["1; x".to_owned(), "2; y".to_owned()])];
        let texts: Vec<String> =
            product(&Vec::new(), &each).iter().map(|c| c.text("${b}${a}")).collect();
        assert_eq!(texts, ["x1", "y2"]);
    }

    #[test]
    fn what_is_not_bound_is_found() {
        assert_eq!(unbound("a ${b} c"), Some("${b}"));
        assert_eq!(unbound("a b"), None);
    }
}

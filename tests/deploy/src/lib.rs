// SPDX-License-Identifier: Apache-2.0
//! Renders the templates of the chart in `deploy/chart`. Of Helm's language they use only what is here, so that the chart can be held to account without Helm:
//!
//! - `{{- if .Values.a.b }}` and `{{- end }}`, each on a line of its own,
//! - `{{ .Values.a.b }}`, `.Chart.AppVersion`, `.Release.Name`, `.Release.Namespace`, through `toJson`, `indent N` or `default .OTHER`.
#![forbid(unsafe_code)]

use serde_json::Value;

/// Why a template cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// An action that is not known here.
    #[error("line {line}: {{{{{action}}}}} is none of what the chart may use")]
    Unknown {
        /// The line, from 1 on.
        line: usize,
        /// What is between the braces.
        action: String,
    },
    /// A value that is not there.
    #[error("line {line}: there is no {path}")]
    Missing {
        /// The line, from 1 on.
        line: usize,
        /// Its path.
        path: String,
    },
    /// An `if` without `end`, or the other way round.
    #[error("line {line}: `if` and `end` do not match")]
    Unbalanced {
        /// The line, from 1 on.
        line: usize,
    },
}

/// Renders a template; `context` has `Values`, `Chart` and `Release`.
///
/// # Errors
/// [`TemplateError`], naming the line.
pub fn render(template: &str, context: &Value) -> Result<String, TemplateError> {
    let mut out = String::new();
    // Whether each `if` that is open holds.
    let mut open: Vec<bool> = Vec::new();
    for (i, text) in template.lines().enumerate() {
        let line = i + 1;
        match text.strip_prefix("{{-").and_then(|t| t.strip_suffix("}}")) {
            Some(action) => match action.trim().strip_prefix("if ") {
                Some(path) => open.push(is_true(lookup(path.trim(), context))),
                None if action.trim() == "end" => {
                    open.pop().ok_or(TemplateError::Unbalanced { line })?;
                }
                None => return Err(unknown(line, action)),
            },
            None if open.iter().all(|holds| *holds) => {
                out.push_str(&actions(text, line, context)?);
                out.push('\n');
            }
            None => {}
        }
    }
    match open.is_empty() {
        true => Ok(out),
        false => Err(TemplateError::Unbalanced {
            line: template.lines().count(),
        }),
    }
}

fn unknown(line: usize, action: &str) -> TemplateError {
    TemplateError::Unknown {
        line,
        action: action.to_owned(),
    }
}

/// A line with its actions carried out.
fn actions(text: &str, line: usize, context: &Value) -> Result<String, TemplateError> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (action, left) = after
            .split_once(" }}")
            .ok_or_else(|| unknown(line, after))?;
        out.push_str(before);
        out.push_str(&evaluate(action, line, context)?);
        rest = left;
    }
    Ok(out + rest)
}

fn evaluate(action: &str, line: usize, context: &Value) -> Result<String, TemplateError> {
    let mut parts = action.split(" | ");
    let path = parts.next().unwrap_or_default();
    let value = |path: &str| {
        lookup(path, context).ok_or_else(|| TemplateError::Missing {
            line,
            path: path.to_owned(),
        })
    };
    let first = value(path)?;
    let Some(filter) = parts.next() else {
        return Ok(plain(first));
    };
    let words: Vec<&str> = filter.split(' ').collect();
    match (words.as_slice(), parts.next()) {
        (["toJson"], None) => Ok(first.to_string()),
        (["default", other], None) if !is_true(Some(first)) => Ok(plain(value(other)?)),
        (["default", _], None) => Ok(plain(first)),
        (["indent", width], None) => {
            let width = width.parse().map_err(|_| unknown(line, action))?;
            Ok(indent(plain(first).trim_end_matches('\n'), width))
        }
        _ => Err(unknown(line, action)),
    }
}

/// Every line moved to the right, empty ones, too, as Helm does.
fn indent(text: &str, width: usize) -> String {
    let space = " ".repeat(width);
    let lines: Vec<String> = text.split('\n').map(|l| format!("{space}{l}")).collect();
    lines.join("\n")
}

/// A value as Helm prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => !s.is_empty(),
        Some(_) => true,
    }
}

/// The value at `.a.b.c`.
fn lookup<'c>(path: &str, context: &'c Value) -> Option<&'c Value> {
    let mut names = path.strip_prefix('.')?.split('.');
    names.try_fold(context, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_chart_uses_is_rendered() {
        let context = json!({"Values": {"a": "x\n\ny\n", "list": [1], "no": false, "empty": ""}, "Chart": {"AppVersion": "1.0"}});
        let render = |text| super::render(text, &context);
        assert_eq!(
            render("v: {{ .Values.list | toJson }}").unwrap(),
            "v: [1]\n"
        );
        assert_eq!(
            render("{{ .Values.a | indent 2 }}").unwrap(),
            "  x\n  \n  y\n"
        );
        let versions =
            "\"{{ .Chart.AppVersion }}:{{ .Values.empty | default .Chart.AppVersion }}\"";
        assert_eq!(render(versions).unwrap(), "\"1.0:1.0\"\n");
        let nested =
            "a\n{{- if .Values.list }}\nb\n{{- if .Values.no }}\nc\n{{- end }}\nd\n{{- end }}\n";
        assert_eq!(render(nested).unwrap(), "a\nb\nd\n");
    }

    #[test]
    fn what_it_may_not_use_is_refused() {
        let context = json!({"Values": {"a": 1}});
        for (text, words) in [
            ("{{ .Values.b }}", "line 1: there is no .Values.b"),
            ("\n{{ .Values.a | upper }}", "line 2: {{.Values.a | upper}}"),
            ("{{- range .Values.a }}", "range"),
            ("{{- if .Values.a }}", "do not match"),
            ("{{- end }}", "do not match"),
        ] {
            let error = render(text, &context).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

//! The forms that a profile can have, for the OpenAPI document, from the table of schemes.

use dandyroll_scheme::schemes::{Form, Kind, SCHEMES};
use dandyroll_scheme::{ContextWidth, Seeding};
use serde_json::{Map, Value, json};

/// One form for each scheme and seeding, with the members that may be null all given or all null.
pub(super) fn schema() -> Value {
    let forms: Vec<Value> = SCHEMES.into_iter().flat_map(forms).collect();
    json!({
        "description": "What generation and detection must agree on, as in the profile's canonical form.",
        "oneOf": forms,
    })
}

fn forms(kind: &'static Kind) -> Vec<Value> {
    let nullable = kind.parameters.iter().any(|parameter| may_be_null(parameter.form));
    let given: &[bool] = if nullable { &[false, true] } else { &[false] };
    let seedings = |given: &bool| [Seeding::Left, Seeding::Min].map(|seeding| form(kind, *given, seeding));
    given.iter().flat_map(seedings).collect()
}

fn may_be_null(form: Form) -> bool {
    matches!(form, Form::Digest | Form::Number { nullable: true, .. })
}

/// The narrowest context that a scheme takes under a seeding: `min` chooses among the tokens of one.
fn least_width(kind: &Kind, seeding: Seeding) -> u8 {
    let first = kind.built_in.first().map(|built_in| (built_in.recipe)());
    let fits = |width: &u8| {
        let width = ContextWidth::new(*width).ok();
        let recipe =
            first.as_ref().zip(width).map(|(recipe, width)| recipe.clone().widened(width).seeded(seeding));
        recipe.is_some_and(|recipe| (kind.fits)(&recipe).is_ok())
    };
    let least = if seeding == Seeding::Min { 1 } else { 0 };
    (least..=ContextWidth::MAX.byte()).find(fits).unwrap_or(least)
}

fn form(kind: &Kind, given: bool, seeding: Seeding) -> Value {
    let hex = json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" });
    let words = |words: &[&str]| json!({ "type": "string", "enum": words });
    let mut properties = Map::new();
    properties.insert("algorithm".into(), words(&[kind.algorithm]));
    properties.insert("background_sha256".into(), hex.clone());
    properties.insert(
        "context_width".into(),
        json!({
            "type": "integer",
            "minimum": least_width(kind, seeding),
            "maximum": ContextWidth::MAX.byte(),
            "description": "h, tokens",
        }),
    );
    properties.insert("function_version".into(), json!({ "type": "integer", "enum": [1] }));
    properties.insert("seeding".into(), words(&[seeding.name()]));
    properties.insert("tokenizer_sha256".into(), hex.clone());
    for parameter in kind.parameters {
        let described = match parameter.form {
            form if may_be_null(form) && !given => json!({ "type": "null" }),
            Form::Digest => hex.clone(),
            Form::Words(known) => words(known),
            Form::Number { least, greatest, nullable } => json!({
                "type": "number",
                // A number that may be null may be 0, too; what lies between is not in range.
                "minimum": if nullable { least.max(1e-6) } else { least },
                "maximum": greatest,
                "description": parameter.help,
            }),
        };
        properties.insert(parameter.name.into(), described);
    }
    let required: Vec<&String> = properties.keys().filter(|name| *name != "background_sha256").collect();
    let title = match (kind.parameters.iter().any(|parameter| may_be_null(parameter.form)), given) {
        (false, _) => format!("{}, seeding {}", kind.algorithm, seeding.name()),
        (true, false) => format!("{}, marks everywhere, seeding {}", kind.algorithm, seeding.name()),
        (true, true) => format!("{}, with an entropy threshold, seeding {}", kind.algorithm, seeding.name()),
    };
    json!({
        "type": "object",
        "title": title,
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_has_its_forms() {
        let schema = schema();
        let forms = schema["oneOf"].as_array().unwrap();
        let of = |algorithm: &str| {
            let named = |form: &&Value| form["properties"]["algorithm"]["enum"][0] == algorithm;
            forms.iter().filter(named).collect::<Vec<_>>()
        };
        assert_eq!((of("green-list").len(), of("gumbel").len()), (4, 2), "{schema}");
        let least = |form: &Value| form["properties"]["context_width"]["minimum"].as_u64();
        assert_eq!(
            of("green-list").iter().map(|form| least(form)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(0), Some(1)]
        );
        assert_eq!(of("gumbel").iter().map(|form| least(form)).collect::<Vec<_>>(), [Some(2), Some(2)]);
    }
}

//! The OpenAPI 3.1 document, made from the table of endpoints and the wire types' own descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};

use super::HttpSettings;
use super::endpoints::{Access, Answer, Body, Described, ENDPOINTS, Endpoint, ParameterPlace};
use super::error::{ErrorCode, Shape};

/// The document as text, pretty-printed, its keys in a fixed order.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        // A tree of maps, lists and words always has a JSON form.
        let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
        text.push('\n');
        text
    })
}

/// The schemas that the document names.
///
/// The second part: names that two types share, which a test forbids.
#[derive(Default)]
struct Schemas(BTreeMap<String, Value>, BTreeSet<String>);

impl Schemas {
    fn add(&mut self, name: String, schema: &RefOr<Schema>) {
        let schema = serde_json::to_value(schema).unwrap_or_default();
        if self.0.get(&name).is_some_and(|before| *before != schema) {
            self.1.insert(name.clone());
        }
        self.0.insert(name, schema);
    }

    /// Where a type's schema is found: by reference, or in place for the simple ones.
    fn of(&mut self, described: Described) -> Value {
        let name = (described.name)().into_owned();
        let schema = (described.schema)();
        let mut parts = Vec::new();
        (described.parts)(&mut parts);
        for (name, part) in parts {
            self.add(name, &part);
        }
        if name == "String" {
            return serde_json::to_value(schema).unwrap_or_default();
        }
        self.add(name.clone(), &schema);
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in ENDPOINTS {
        let operation = operation(endpoint, &mut schemas);
        paths.entry(endpoint.path).or_default().insert(endpoint.method.name().to_lowercase(), operation);
    }
    // What a profile may hold is the schemes' to say.
    schemas.0.insert("ProfileSpec".into(), super::profile_schema::schema());
    let description = "Marks the text and code that language models write, and finds the marks again. Errors are \
        problem documents (RFC 9457) with a stable `code`, or OpenAI's shape where the endpoint is OpenAI's; \
        docs/http.md lists endpoints, scopes, limits and codes.";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dandyroll",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description,
        },
        "tags": [
            { "name": "generation", "description": "OpenAI-compatible generation, marked." },
            { "name": "detection", "description": "Finding marks in text." },
            { "name": "jobs", "description": "Dumps of documents, judged in the background." },
            { "name": "admin", "description": "Rings, key versions, profiles, tokens, servers." },
            { "name": "audit", "description": "What was done: rows, verification, evidence." },
            { "name": "operations", "description": "Health, metrics, this document." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.0,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token: wmk_, 16 characters, _, 52 characters, of a-z and 2-7.",
                },
            },
        },
    })
}

fn operation(endpoint: &Endpoint, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": endpoint.id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": responses(endpoint, schemas),
    });
    if let Access::Any(scopes) = endpoint.access {
        let names: Vec<_> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        operation["description"] = format!("Needs the scope {}.", names.join(" or ")).into();
        operation["security"] = json!([{ "token": [] }]);
    } else {
        operation["security"] = json!([]);
    }
    if endpoint.all_parameters().next().is_some() {
        let parameters = endpoint.all_parameters().map(|parameter| {
            let place = match parameter.place {
                ParameterPlace::Path => "path",
                ParameterPlace::Query | ParameterPlace::NeededQuery => "query",
                ParameterPlace::Header => "header",
            };
            json!({
                "name": parameter.name,
                "in": place,
                "required": matches!(parameter.place, ParameterPlace::Path | ParameterPlace::NeededQuery),
                "description": parameter.about,
                "schema": parameter.kind.schema(),
            })
        });
        operation["parameters"] = parameters.collect();
    }
    let (required, content_type, schema, limit) = match endpoint.body {
        Body::None => return operation,
        Body::File => {
            operation["requestBody"] = json!({
                "required": true,
                "description": "The file. Its size is bounded by the setting jobs.upload_limit_bytes (1 GiB unless set).",
                "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
            });
            return operation;
        }
        Body::Json { schema, limit } => (true, "application/json", schema, limit),
        Body::OptionalJson { schema, limit } => (false, "application/json", schema, limit),
        Body::Lines { schema, limit, .. } => (true, "application/x-ndjson", schema, limit),
    };
    let bytes = limit.bytes(&HttpSettings::default());
    // OpenAPI 3.1 has no word for lines (3.2 has `itemSchema`): a body of one line is described.
    let what = if content_type == "application/json" {
        "The body"
    } else {
        "As many lines as one likes, each as described. A line"
    };
    let mut schema = schemas.of(schema);
    if let Body::Lines { each: true, .. } = endpoint.body {
        let other = json!({
            "type": ["array", "boolean", "null", "number", "object", "string"],
            "description": "Any other line is answered with an error in its place.",
        });
        schema = json!({ "anyOf": [schema, other] });
    }
    operation["requestBody"] = json!({
        "required": required,
        "description": format!("{what} may have {bytes} bytes (the operator may set another limit)."),
        "content": { content_type: { "schema": schema } },
    });
    operation
}

fn content(answer: &Answer, schemas: &mut Schemas) -> Value {
    let schema = match answer.schema {
        // The lines of a stream are described, but the body as a whole is text.
        Some(described) if answer.content_type != "application/json" => {
            let line = schemas.of(described);
            let simple = line.get("$ref").is_none();
            return if simple {
                json!({ "schema": line })
            } else {
                json!({ "schema": { "type": "string" }, "x-line": line })
            };
        }
        Some(described) => schemas.of(described),
        None => json!({ "type": "object" }),
    };
    json!({ "schema": schema })
}

fn responses(endpoint: &Endpoint, schemas: &mut Schemas) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for answer in endpoint.answers {
        let content = content(answer, schemas);
        let response = responses
            .entry(answer.status.to_string())
            .or_insert_with(|| json!({ "description": answer.about, "content": {} }));
        response["content"][answer.content_type] = content;
    }
    let (content_type, schema) = match endpoint.shape {
        Shape::Problem => {
            ("application/problem+json", schemas.of(Described::of::<dandyroll_api::problem::Problem>()))
        }
        Shape::OpenAi => {
            ("application/json", schemas.of(Described::of::<dandyroll_api::problem::ErrorEnvelope>()))
        }
    };
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in endpoint.codes() {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let lines: Vec<_> = codes.iter().map(|code| format!("- `{code}`: {}.", code.title())).collect();
        let response = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": lines.join("\n"), "content": {} }));
        response["content"][content_type] = json!({ "schema": schema });
        let text = json!({ "schema": { "type": "string" } });
        match status {
            401 => response["headers"] = json!({ "WWW-Authenticate": text }),
            405 => response["headers"] = json!({ "Allow": text }),
            409 | 429 | 503 => {
                let seconds =
                    json!({ "description": "Seconds.", "schema": { "type": "integer", "minimum": 1 } });
                response["headers"] = json!({ "Retry-After": seconds });
            }
            _ => {}
        }
    }
    json!(responses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_openapi_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(text()).unwrap();
        let read: utoipa::openapi::OpenApi = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(read.paths.paths.len(), document["paths"].as_object().unwrap().len());
        let known = document["components"]["schemas"].as_object().unwrap();
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(known.contains_key(name), "{reference}");
        }
    }

    #[test]
    fn no_two_types_share_a_name() {
        let mut schemas = Schemas::default();
        for endpoint in ENDPOINTS {
            operation(endpoint, &mut schemas);
        }
        assert!(schemas.1.is_empty(), "{:?}", schemas.1);
    }

    #[test]
    fn requests_refuse_unknown_fields_in_the_document_too() {
        /// Lines of corpora, which are data and not what is asked for.
        const OPEN: &str = "HumanText";
        /// Every object that a request may hold, and whether it takes more than it names.
        fn objects(
            value: &Value,
            all: &Map<String, Value>,
            seen: &mut BTreeSet<String>,
            open: &mut Vec<String>,
        ) {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        let name = reference.rsplit('/').next().unwrap();
                        if name != OPEN && seen.insert(name.to_owned()) {
                            objects(&all[name], all, seen, open);
                        }
                    }
                    let named = map.get("type").is_some_and(|kind| kind == "object")
                        && map.contains_key("properties");
                    if named && map.get("additionalProperties") != Some(&Value::Bool(false)) {
                        open.push(value.to_string());
                    }
                    for (key, value) in map {
                        match value {
                            // The first says what fields there are, the others which go together.
                            Value::Array(list) if key == "allOf" => objects(&list[0], all, seen, open),
                            _ => objects(value, all, seen, open),
                        }
                    }
                }
                Value::Array(list) => list.iter().for_each(|value| objects(value, all, seen, open)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(text()).unwrap();
        let all = document["components"]["schemas"].as_object().unwrap();
        let (mut seen, mut open) = (BTreeSet::new(), Vec::new());
        for path in document["paths"].as_object().unwrap().values() {
            for operation in path.as_object().unwrap().values() {
                if let Some(body) = operation.get("requestBody") {
                    objects(body, all, &mut seen, &mut open);
                }
            }
        }
        assert!(seen.len() > 15, "{seen:?}");
        assert!(open.is_empty(), "{open:#?}");
    }
}

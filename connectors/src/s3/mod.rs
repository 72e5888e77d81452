//! The sink `s3`: rows to objects of S3 or a store that speaks like it, exactly
//! once. This folder is the only place that names the client library.

use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::secret::SecretRef;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::objects::{ObjectFormat, ROLL_KEYS, log_folder, marker_path, rolled};
use bucket::{Bucket, Keys};
use patience::Patient;
use store::S3;

mod bucket;
mod patience;
mod store;
#[cfg(test)]
mod tests;

const KEYS: &[Key] = &[
    required("path", Kind::Text, "where objects go: \"s3://bucket/prefix/\"").outside(),
    optional("endpoint", Kind::Text, "a store that is not AWS, e.g. \"https://minio.plant:9000\"").outside(),
    optional("region", Kind::Text, "default AWS_REGION of the environment, or \"us-east-1\""),
    optional(
        "allow_http",
        Kind::Bool,
        "whether an http:// endpoint is right, default false: rows go in the clear",
    ),
    optional(
        "access_key_id",
        Kind::Secret,
        "a secret:// reference; without it the environment's AWS_ variables or the machine's role",
    ),
    optional("secret_access_key", Kind::Secret, "a secret:// reference; goes with `access_key_id`"),
    optional(
        "conditional_put",
        Kind::Bool,
        "false for a store that does not know If-Match; two processes may then overwrite each other; default true",
    ),
    optional("format", Kind::Word(&["parquet", "json", "csv"]), "how rows are written, default \"parquet\""),
    optional("delimiter", Kind::Text, "csv: the character between cells, default \",\""),
    optional("header", Kind::Bool, "csv: whether the first line names the columns, default true"),
];

/// `[sink.x] type = "s3"`.
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "s3",
    summary: "rows to objects of S3 or a store like it, exactly once: Parquet, JSON lines or CSV",
    keys: &[KEYS, ROLL_KEYS],
    example: r#"[topology]
name = "readings"

[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }

[sink.lake]
type              = "s3"
from              = "rows"
path              = "s3://plant/readings/"
endpoint          = "https://minio.plant:9000"
access_key_id     = "secret://env/LAKE_KEY"
secret_access_key = "secret://env/LAKE_SECRET"
roll              = { size = "128MiB", age = "5m" }
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let mut out = Vec::new();
    let format = ObjectFormat::from_config(config, "parquet").map_err(|wrong| out.extend(wrong.0));
    let bucket = bucket(config, &mut out);
    let (Ok(format), Some(bucket), true) = (format, bucket, out.is_empty()) else {
        return Err(ConfigError(out));
    };
    let marker = format!("{}{}", bucket.prefix, marker_path(config, context));
    let store = S3::new(bucket, marker, log_folder(config, context).join("upload"));
    rolled(config, context, &input.stream.columns, format, store)
}

/// Reads where objects go, and as whom.
fn bucket(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Option<Bucket> {
    let table = &config.table;
    let path = table.str("path").unwrap_or_default();
    let place = path.strip_prefix("s3://").and_then(place_of);
    if place.is_none() {
        let message = format!("`{path}` names no bucket and prefix");
        let help = "write e.g. \"s3://plant/readings/\", with a slash at the end";
        out.push(Diagnostic::error("TG-C034", message).at(table.span_of("path")).help(help));
    }
    let endpoint = table.str("endpoint").map(|text| text.trim_end_matches('/').to_owned());
    let allow_http = table.bool("allow_http").unwrap_or(false);
    if let Some(text) = &endpoint {
        let url = reqwest::Url::parse(text).ok().filter(|url| url.has_host());
        let wrong = match url.as_ref().map(reqwest::Url::scheme) {
            Some("https") => None,
            Some("http") if allow_http => None,
            Some("http") => Some((
                format!("`{text}` would carry rows in the clear"),
                "use https://, or allow_http = true if the network is your own",
            )),
            Some(_) | None => Some((
                format!("`{text}` is no address of a store"),
                "write e.g. \"https://minio.plant:9000\"",
            )),
        };
        if let Some((message, help)) = wrong {
            out.push(Diagnostic::error("TG-C034", message).at(table.span_of("endpoint")).help(help));
        }
    }
    let keys = keys(config, out);
    let (bucket, prefix) = place?;
    Some(Bucket {
        name: bucket,
        prefix,
        endpoint,
        region: table.str("region").map(str::to_owned),
        allow_http,
        conditional_put: table.bool("conditional_put").unwrap_or(true),
        keys,
        patient: Patient::default(),
    })
}

/// Reads whose keys are used: the environment's, or two references.
fn keys(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Option<Keys> {
    let names = ["access_key_id", "secret_access_key"];
    let entries: Vec<_> = names.iter().filter_map(|name| config.table.entry(name)).collect();
    for entry in &entries {
        let text = config.table.str(&entry.key).unwrap_or_default();
        if !SecretRef::new(text).is_reference() {
            let message = format!("`{}` is written into the file", entry.key);
            let help = "name where it is kept: \"secret://env/NAME\" or \"secret://file/PATH\"";
            out.push(Diagnostic::error("TG-C011", message).at(config.table.span_of(&entry.key)).help(help));
        }
    }
    if let [one] = entries.as_slice() {
        let message =
            format!("`{}` alone opens nothing: `{}` and `{}` go together", one.key, names[0], names[1]);
        out.push(Diagnostic::error("TG-C014", message).at(one.key_span.clone()));
    }
    let of = |name: &str| config.table.str(name).map(SecretRef::new);
    Some(Keys { id: of("access_key_id")?, secret: of("secret_access_key")? })
}

/// Bucket and prefix of `bucket/prefix/`.
fn place_of(text: &str) -> Option<(String, String)> {
    let (bucket, prefix) = text.split_once('/')?;
    let is_name = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain)
    };
    let folders = prefix.strip_suffix('/');
    let is_right = is_name(bucket)
        && bucket.len() >= 3
        && (prefix.is_empty() || folders.is_some_and(|folders| folders.split('/').all(is_name)));
    is_right.then(|| (bucket.to_owned(), prefix.to_owned()))
}

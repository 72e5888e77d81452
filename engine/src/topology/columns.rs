//! Which columns of a source anybody reads: found from the sinks back to the
//! sources, so that a source need not keep the others.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{OperatorNode, Plan, PortRef};
use crate::schema::{RECEIVED_PORT, StreamSchema};

/// Columns of a stream that are read, by index; `None`: all.
type Wanted = Option<BTreeSet<usize>>;

/// Port of rows that could not be used; they show the whole row.
const REJECTS: &str = "rejects";

impl Plan {
    /// Tells each source which of its columns are read. The plan must have all
    /// its nodes.
    pub(crate) fn keep_what_is_read(&mut self) {
        let mut wanted: BTreeMap<PortRef, Wanted> = BTreeMap::new();
        for sink in &self.sinks {
            wanted.insert(sink.input.clone(), None);
        }
        let streams = self.streams();
        // An operator stands after those it reads.
        for operator in self.operators.iter().rev() {
            for input in &operator.inputs {
                let needs = needs(operator, streams.get(input), &wanted);
                let known = wanted.remove(input).unwrap_or_else(|| Some(BTreeSet::new()));
                wanted.insert(input.clone(), both(known, needs));
            }
        }
        // Logged rows are whole.
        for source in self.sources.iter_mut().filter(|source| !source.part.logged) {
            let port = |port| wanted.get(&PortRef { node: source.name.clone(), port });
            // A reject shows its row, so whoever reads rejects reads every column.
            let (Some(main), None) = (port(0).or(port(RECEIVED_PORT)), port(1)) else { continue };
            // What is known of when a row came is not in the source.
            let received = port(RECEIVED_PORT).cloned().unwrap_or_else(|| Some(BTreeSet::new()));
            let Some(columns) = both(main.clone(), received) else { continue };
            let fields = source.part.stream.columns.fields().iter().enumerate();
            let kept = fields.filter(|(index, _)| columns.contains(index));
            let names: Vec<&str> = kept.map(|(_, field)| field.name().as_str()).collect();
            source.part.source.keep(&names);
        }
    }

    fn streams(&self) -> BTreeMap<PortRef, StreamSchema> {
        let sources = self.sources.iter().map(|source| {
            let port = PortRef { node: source.name.clone(), port: 0 };
            (port, source.part.stream.clone())
        });
        let operators =
            self.operators.iter().flat_map(|operator| {
                operator.part.ports.iter().enumerate().map(|(port, stream)| {
                    (PortRef { node: operator.name.clone(), port }, stream.stream.clone())
                })
            });
        sources.chain(operators).collect()
    }
}

/// The columns of an input that an operator and its readers need.
fn needs(
    operator: &OperatorNode,
    input: Option<&StreamSchema>,
    wanted: &BTreeMap<PortRef, Wanted>,
) -> Wanted {
    let mut needs: Wanted = operator.part.operator.reads().map(|columns| columns.into_iter().collect());
    for (index, port) in operator.part.ports.iter().enumerate() {
        let port_ref = PortRef { node: operator.name.clone(), port: index };
        let Some(by_readers) = wanted.get(&port_ref) else { continue };
        if port.name == REJECTS {
            return None;
        }
        if input.is_none_or(|input| has_shape_of(&port.stream, input)) {
            needs = both(needs, by_readers.clone());
        }
    }
    needs
}

fn both(left: Wanted, right: Wanted) -> Wanted {
    let (mut left, right) = (left?, right?);
    left.extend(right);
    Some(left)
}

/// Whether rows of the input may leave here as they came.
fn has_shape_of(port: &StreamSchema, input: &StreamSchema) -> bool {
    let (a, b) = (port.columns.fields(), input.columns.fields());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use arrow::array::RecordBatch;
    use arrow::datatypes::{DataType, Field};
    use async_trait::async_trait;

    use super::*;
    use crate::error::{ConnectorError, OperatorError};
    use crate::operator::{Operator, OperatorPart, Output, Port, Progress};
    use crate::schema::rejects_schema;
    use crate::sink::{Sink, SinkPart};
    use crate::source::{Polled, Position, Source, SourcePart, WatermarkPolicy};
    use crate::topology::delivery::RetryPolicy;
    use crate::topology::fingerprint::Fingerprint;
    use crate::topology::plan::{SinkNode, SourceNode};

    type Kept = Arc<Mutex<Option<Vec<String>>>>;

    /// Remembers what it was told to keep.
    struct Told(Kept);

    #[async_trait]
    impl Source for Told {
        async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
            Ok(())
        }

        async fn next(&mut self) -> Result<Polled, ConnectorError> {
            Ok(Polled::End)
        }

        fn keep(&mut self, columns: &[&str]) {
            *self.0.lock().expect("one thread") = Some(columns.iter().map(|name| (*name).into()).collect());
        }
    }

    struct Reader(Option<Vec<usize>>);

    impl Operator for Reader {
        fn on_batch(&mut self, _: usize, _: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
            Ok(Progress::Done)
        }

        fn reads(&self) -> Option<Vec<usize>> {
            self.0.clone()
        }
    }

    struct Nowhere;

    #[async_trait]
    impl Sink for Nowhere {
        async fn open(&mut self) -> Result<(), ConnectorError> {
            Ok(())
        }

        async fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
            Ok(())
        }

        async fn flush(&mut self, _: u64) -> Result<(), ConnectorError> {
            Ok(())
        }
    }

    fn stream(names: &[&str]) -> StreamSchema {
        StreamSchema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect(), None)
    }

    fn operator(name: &str, from: &str, reads: Option<&[usize]>, ports: Vec<StreamSchema>) -> OperatorNode {
        let rejects = rejects_schema();
        let port = |stream: StreamSchema| {
            let name = if stream == rejects { REJECTS.into() } else { String::new() };
            Port { name, stream }
        };
        let operator = Box::new(Reader(reads.map(<[usize]>::to_vec)));
        OperatorNode {
            name: name.into(),
            part: OperatorPart { operator, ports: ports.into_iter().map(port).collect() },
            copies: Vec::new(),
            state_max: None,
            inputs: vec![PortRef { node: from.into(), port: 0 }],
            fingerprint: Fingerprint::default(),
        }
    }

    /// What the source `rows` (columns a, b, c, d) is told to keep, where sinks
    /// read these ports.
    fn kept(operators: Vec<OperatorNode>, sinks: &[(&str, usize)]) -> Option<Vec<String>> {
        let kept = Kept::default();
        let part = SourcePart {
            source: Box::new(Told(Arc::clone(&kept))),
            stream: stream(&["a", "b", "c", "d"]),
            watermark: WatermarkPolicy::default(),
            replayable: true,
            commit_quickly: false,
            logged: false,
        };
        let sink = |(node, port): &(&str, usize)| SinkNode {
            name: format!("sink of {node}.{port}"),
            part: SinkPart { sink: Box::new(Nowhere) },
            queue: None,
            retry: RetryPolicy::default(),
            input: PortRef { node: (*node).into(), port: *port },
            fingerprint: Fingerprint::default(),
        };
        let mut plan = Plan {
            name: "test".into(),
            checkpoint_interval: Duration::from_secs(1),
            sources: vec![SourceNode {
                name: "rows".into(),
                part,
                unique: Vec::new(),
                fingerprint: Fingerprint::default(),
            }],
            operators,
            sinks: sinks.iter().map(sink).collect(),
        };
        plan.keep_what_is_read();
        kept.lock().expect("one thread").clone()
    }

    fn all() -> StreamSchema {
        stream(&["a", "b", "c", "d"])
    }

    fn filter(reads: &[usize]) -> OperatorNode {
        operator("filter", "rows", Some(reads), vec![all(), rejects_schema()])
    }

    fn window(from: &str) -> OperatorNode {
        operator("window", from, Some(&[0, 1]), vec![stream(&["n"]), all()])
    }

    #[test]
    fn a_column_is_kept_for_whoever_reads_it() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(kept(vec![window("rows")], &[("window", 0)]), names(&["a", "b"]));
        let through = vec![filter(&[3]), window("filter")];
        assert_eq!(kept(through, &[("window", 0)]), names(&["a", "b", "d"]), "what passes through counts");
        let late = kept(vec![window("rows")], &[("window", 0), ("window", 1)]);
        assert_eq!(late, None, "late rows are whole");
    }

    #[test]
    fn all_are_kept_for_whoever_may_look_at_any() {
        let unknown = operator("unknown", "rows", None, vec![stream(&["n"])]);
        assert_eq!(kept(vec![unknown], &[("unknown", 0)]), None);
        assert_eq!(kept(vec![window("rows")], &[("window", 0), ("rows", 0)]), None, "a sink");
        assert_eq!(kept(vec![window("rows")], &[("window", 0), ("rows", 1)]), None, "its rejects");
        let rejects = vec![filter(&[3]), window("filter")];
        assert_eq!(kept(rejects, &[("window", 0), ("filter", 1)]), None, "rejects of a reader");
    }
}

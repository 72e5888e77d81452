//! Which member of a JSON row belongs to which column: a small tree of names,
//! made once per decoder.

use crate::format::spec::RowSpec;

/// What a member's value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A column.
    Column(usize),
    /// Columns stand inside it: another shape.
    Inside(usize),
    /// No column.
    Unknown,
}

/// The shapes of a row and of the objects in it that hold columns; the row
/// itself is the first.
#[derive(Debug)]
pub(super) struct Shapes(Vec<Vec<(Box<str>, Target)>>);

impl Shapes {
    pub(super) fn new(spec: &RowSpec) -> Shapes {
        let mut shapes = Shapes(vec![Vec::new()]);
        for (index, column) in spec.columns.iter().enumerate() {
            shapes.add(&column.path, Target::Column(index));
        }
        shapes.0.iter_mut().for_each(|shape| shape.sort_by(|a, b| a.0.cmp(&b.0)));
        shapes
    }

    fn add(&mut self, path: &[String], target: Target) {
        let mut at = 0;
        let Some((name, outer)) = path.split_last() else { return };
        for part in outer {
            at = match self.named(at, part) {
                Some(Target::Inside(inner)) => inner,
                Some(Target::Column(_) | Target::Unknown) | None => {
                    self.0.push(Vec::new());
                    let inner = self.0.len() - 1;
                    self.insert(at, part, Target::Inside(inner));
                    inner
                }
            };
        }
        self.insert(at, name, target);
    }

    fn insert(&mut self, shape: usize, name: &str, target: Target) {
        if let Some(members) = self.0.get_mut(shape) {
            members.push((name.into(), target));
        }
    }

    fn named(&self, shape: usize, name: &str) -> Option<Target> {
        let members = self.0.get(shape)?;
        members.iter().find(|member| *member.0 == *name).map(|member| member.1)
    }

    /// The target of a member of a shape.
    pub(super) fn target(&self, shape: usize, name: &[u8]) -> Target {
        let Some(members) = self.0.get(shape) else { return Target::Unknown };
        let found = members.binary_search_by(|member| member.0.as_bytes().cmp(name));
        found.ok().and_then(|at| members.get(at)).map_or(Target::Unknown, |member| member.1)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

//! Every part that a topology can name, joined from the crates that have them.

use tidegate_engine::catalog::Catalog;

/// The whole catalog.
pub(crate) const CATALOG: Catalog = Catalog {
    sources: &[tidegate_connectors::SOURCES],
    operators: &[tidegate_operators::OPERATORS, tidegate_connectors::OPERATORS],
    composed: &[tidegate_operators::COMPOSED],
    sinks: &[tidegate_connectors::SINKS],
    tables: &[tidegate_connectors::TABLES, tidegate_operators::TABLES],
    trigger: &tidegate_operators::TRIGGER,
    tasks: &[tidegate_operators::TASKS, tidegate_connectors::TASKS],
};

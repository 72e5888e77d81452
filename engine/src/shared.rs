//! Things that several parts of one topology use together: a source and a task
//! that speak to one device over one line. Passed along, never global.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared things by type and name.
#[derive(Default)]
pub struct Shared {
    things: Mutex<HashMap<(TypeId, String), Arc<dyn Any + Send + Sync>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Shared")
    }
}

impl Shared {
    /// The thing of this type and name, made now if it is not there yet.
    pub fn get_or_insert<T: Any + Send + Sync>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (TypeId::of::<T>(), name.to_owned());
        if let Some(thing) = things.get(&key)
            && let Ok(thing) = Arc::clone(thing).downcast()
        {
            return thing;
        }
        let thing = Arc::new(make());
        things.insert(key, Arc::clone(&thing) as Arc<dyn Any + Send + Sync>);
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_thing_of_each_type() {
        let shared = Shared::default();
        let first = shared.get_or_insert("plc", || 1_u8);
        assert!(Arc::ptr_eq(&first, &shared.get_or_insert("plc", || 2_u8)));
        assert_eq!(*shared.get_or_insert("plc", || 3_u16), 3);
    }
}

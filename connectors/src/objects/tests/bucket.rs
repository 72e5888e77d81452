//! A store outside that follows a script: answers are lost, and requests of a
//! process that has died land late.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tidegate_engine::testing::disk::SimDisk;
use tidegate_engine::testing::seed::Seed;

use super::super::Store;
use super::{Checkpoint, LOG, ROWS, all_ids, live, look, objects, some_roll, until};
use crate::sink_log::{RemoteError, over};

/// A store outside.
#[derive(Default)]
pub(super) struct World {
    pub(super) marker: Option<(u64, Vec<u8>)>,
    version: u64,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// Requests whose process has died and which have not landed yet.
    late: Vec<Request>,
    pub(super) steps: u64,
    /// The process dies at this step: before it has an effect, behind it, or
    /// while the request is on its way.
    pub(super) crash: Option<(u64, u32)>,
    pub(super) has_crashed: bool,
    pub(super) process: u64,
}

#[derive(Clone)]
enum Request {
    Marker(Option<u64>, Vec<u8>),
    Object(String, Vec<u8>),
}

impl World {
    fn land(&mut self, request: Request) -> bool {
        match request {
            Request::Marker(seen, _) if self.marker.as_ref().map(|(version, _)| *version) != seen => false,
            Request::Marker(_, marker) => {
                self.version += 1;
                self.marker = Some((self.version, marker));
                true
            }
            Request::Object(name, object) => {
                self.objects.insert(name, object);
                true
            }
        }
    }
}

pub(super) struct Script {
    world: Arc<Mutex<World>>,
    process: u64,
    seen: Option<u64>,
    parts: Vec<u8>,
}

pub(super) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("no test panics in it")
}

impl Script {
    pub(super) fn new(world: &Arc<Mutex<World>>) -> Script {
        let process = lock(world).process;
        Script { world: Arc::clone(world), process, seen: None, parts: Vec::new() }
    }

    fn step(&self, request: Option<Request>) -> Result<(MutexGuard<'_, World>, bool), RemoteError> {
        let mut world = lock(&self.world);
        let lost = || Err(RemoteError::Lost("away".into()));
        if world.has_crashed || world.process != self.process {
            return lost();
        }
        world.steps += 1;
        let crash = world.crash.filter(|(step, _)| *step == world.steps).map(|(_, how)| how);
        if let Some(how) = crash {
            world.has_crashed = true;
            match (how, request) {
                (0, Some(request)) => drop(world.land(request)),
                (1, Some(request)) => world.late.push(request),
                _ => {}
            }
            return lost();
        }
        let landed = request.is_none_or(|request| world.land(request));
        Ok((world, landed))
    }
}

#[async_trait]
impl Store for Script {
    async fn connect(&mut self) -> Result<(), RemoteError> {
        self.parts.clear();
        self.step(None).map(drop)
    }

    async fn read_marker(&mut self) -> Result<Option<Vec<u8>>, RemoteError> {
        let found = self.step(None)?.0.marker.clone();
        self.seen = found.as_ref().map(|(version, _)| *version);
        Ok(found.map(|(_, marker)| marker))
    }

    async fn write_marker(&mut self, marker: &[u8]) -> Result<bool, RemoteError> {
        let (landed, version) = {
            let (world, landed) = self.step(Some(Request::Marker(self.seen, marker.to_vec())))?;
            (landed, world.version)
        };
        if landed {
            self.seen = Some(version);
        }
        Ok(landed)
    }

    async fn add(&mut self, _: &str, bytes: Vec<u8>) -> Result<(), RemoteError> {
        self.parts.extend(bytes);
        self.step(None).map(drop)
    }

    async fn publish(&mut self, name: &str) -> Result<(), RemoteError> {
        let object = std::mem::take(&mut self.parts);
        self.step(Some(Request::Object(name.to_owned(), object))).map(drop)
    }

    fn marker_place(&self) -> String {
        "the marker".into()
    }
}

#[tokio::test]
async fn a_bucket_holds_each_row_once_although_requests_land_late() {
    let (mut crashes, mut late) = (0, 0);
    for number in 0..300 {
        let mut seed = Seed::new(number);
        let (world, disk) = (Arc::new(Mutex::new(World::default())), SimDisk::default());
        let (mut at, mut history) = (Checkpoint::default(), BTreeMap::new());
        for life in 0.. {
            if life < 6 {
                let step = lock(&world).steps + 1 + u64::try_from(seed.below(14)).expect("small");
                let how = [0, 1, 1, 2][seed.below(4)];
                lock(&world).crash = seed.chance(80).then_some((step, how));
            }
            let plugged = disk.plugged();
            let roll = some_roll(&mut seed);
            let remote = objects(&plugged, &format!("s{life}"), roll, Script::new(&world));
            let sink = over(Path::new(LOG), Arc::new(plugged), 1 << 30, remote);
            let ended = tokio::select! {
                ended = live(sink, &mut at, &mut seed) => ended,
                () = until(|| lock(&world).has_crashed) => false,
            };
            look(&mut history, lock(&world).objects.clone(), number);
            if ended {
                break;
            }
            assert!(life < 40, "seed {number}: no end");
            crashes += 1;
            disk.restart(&mut seed);
            let mut world = lock(&world);
            (world.crash, world.has_crashed) = (None, false);
            world.process += 1;
            if seed.chance(50) {
                for request in std::mem::take(&mut world.late) {
                    world.land(request);
                    late += 1;
                }
            }
        }
        let mut world = lock(&world);
        for request in std::mem::take(&mut world.late) {
            world.land(request);
            late += 1;
        }
        look(&mut history, world.objects.clone(), number);
        assert_eq!(all_ids(world.objects.values()), (0..ROWS).collect::<Vec<_>>(), "seed {number}");
    }
    assert!(crashes > 600 && late > 100, "{crashes} crashes, {late} late");
}

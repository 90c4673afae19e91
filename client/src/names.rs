//! Typed constants: shared by clients, workers and tests. No macros; go-to-definition lands in user code.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What may cross a commit: every input, output, signal and view.
pub trait Data: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Data for T {}

/// A workflow's name, with the types of its input and output.
///
/// ```
/// use holdfast::Workflow;
/// /// Takes the order's number, gives the parcel's.
/// pub const ORDER: Workflow<u64, String> = Workflow::new("order");
/// assert_eq!((ORDER.version(2).name(), ORDER.version(2).number()), ("order", 2));
/// ```
pub struct Workflow<I, O> {
    name: &'static str,
    version: u32,
    types: PhantomData<fn(I) -> O>,
}

/// A step's name, with the types of its input and output.
///
/// ```
/// use holdfast::{Step, Undo};
/// pub const CHARGE: Step<u64, String> = Step::new("charge-payment");
/// pub const REFUND: Step<Undo<u64, String>, ()> = Step::new("refund-payment");
/// ```
pub struct Step<I, O> {
    name: &'static str,
    types: PhantomData<fn(I) -> O>,
}

/// A signal's name, with the type of its payload: `pub const APPROVED: Signal<bool> = Signal::new("approved");`.
pub struct Signal<T> {
    name: &'static str,
    types: PhantomData<fn() -> T>,
}

/// The name of a value that a run publishes; readable with no worker running. See [`Cx::publish`](crate::Cx::publish).
pub struct View<T> {
    name: &'static str,
    types: PhantomData<fn() -> T>,
}

impl<I, O> Workflow<I, O> {
    /// Version 1 of the workflow of this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            version: 1,
            types: PhantomData,
        }
    }
    /// Another version of it, for registration; a start takes the version that is current.
    #[must_use]
    pub const fn version(self, version: u32) -> Self {
        Self {
            name: self.name,
            version,
            types: PhantomData,
        }
    }
    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
    /// Its version.
    pub const fn number(&self) -> u32 {
        self.version
    }
}

macro_rules! named {
    ($($t:ident<$($g:ident),*>),*) => { $(
        impl<$($g),*> $t<$($g),*> {
            /// The one of this name.
            pub const fn new(name: &'static str) -> Self {
                Self { name, types: PhantomData }
            }
            /// Its name.
            pub const fn name(&self) -> &'static str {
                self.name
            }
        }
    )* };
}
macro_rules! copy {
    ($($t:ident<$($g:ident),*>),*) => { $(
        impl<$($g),*> Copy for $t<$($g),*> {}
        impl<$($g),*> Clone for $t<$($g),*> {
            fn clone(&self) -> Self {
                *self
            }
        }
    )* };
}
named!(Step<I, O>, Signal<T>, View<T>);
copy!(Workflow<I, O>, Step<I, O>, Signal<T>, View<T>);

/// What an undo step is given.
///
/// ```
/// # use holdfast::{StepCx, StepResult, Undo};
/// # struct Shop;
/// # impl Shop { async fn refund(&self, _key: &str) -> std::io::Result<()> { Ok(()) } }
/// async fn refund(cx: StepCx, undo: Undo<u64, String>) -> StepResult<()> {
///     // By key: the charge may have happened though its answer was lost.
///     Ok(cx.app::<Shop>().refund(&undo.key).await?)
/// }
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Undo<I, O> {
    /// What the step was given.
    pub input: I,
    /// `None` unless the step is done: look its effect up by `key`.
    pub output: Option<O>,
    /// The idempotency key of the step.
    pub key: String,
}

/// What a probe of a `reconcile` step is given: did the effect with this key happen?
///
/// ```
/// # use holdfast::{Found, Probe, StepCx, StepResult};
/// # struct Shop;
/// # impl Shop { async fn find(&self, _key: &str) -> std::io::Result<Option<String>> { Ok(None) } }
/// async fn find_charge(cx: StepCx, probe: Probe<u64>) -> StepResult<Found<String>> {
///     let found = cx.app::<Shop>().find(&probe.key).await?;
///     Ok(found.map_or(Found::Absent, Found::Done))
/// }
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Probe<I> {
    /// What the step was given.
    pub input: I,
    /// The idempotency key of the step.
    pub key: String,
}

/// What a probe found.
#[derive(Debug, Serialize, Deserialize)]
pub enum Found<O> {
    /// It happened: adopt this as the step's result.
    Done(O),
    /// It did not happen: run the step again.
    Absent,
    /// Nobody can tell: pause the run with the evidence.
    Unsure,
}

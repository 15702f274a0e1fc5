//! The types of `cubecl-llvm` that `cubecl-cuda` names, and nothing behind them: its kernels are compiled by NVRTC
//! (feature `cpp`), and no LLVM is downloaded or linked.

use cubecl_core::{
    ir::{DeviceProperties, nvidia::SmArch},
    prelude::KernelDefinition,
};
use cubecl_server::{compiler::CompilationError, kernel::BufferIOAttr};

pub mod nvptx {
    pub mod ptx_version {
        use core::fmt;

        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// None: where it is none, the driver's own compiler is asked.
            #[must_use]
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

pub mod shared {
    pub mod lowered_features {
        use super::super::DeviceProperties;

        pub enum GpuTarget {
            Nvptx,
        }

        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlvmTarget {
    Nvptx,
}

#[derive(Clone, Debug)]
pub struct PlironCompiler {
    pub target: LlvmTarget,
}

#[derive(Debug, Default, Clone)]
pub struct PlironOptions {
    pub arch: Option<()>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    pub grid_constants: bool,
    /// `cubecl-cuda` fills what it does not name with `..Default::default()`.
    pub rest: (),
}

#[derive(Debug)]
pub struct NvptxModule {
    pub ptx: Vec<core::ffi::c_char>,
    pub ir: String,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}

pub enum PlironArtifact {
    NvptxCode(NvptxModule),
    Other,
}

impl PlironCompiler {
    /// # Errors
    /// None: it is never called.
    pub fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        unreachable!("`cubecl-cuda` is built with `cpp`, and NVRTC compiles its kernels")
    }

    #[must_use]
    pub fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

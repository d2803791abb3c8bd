//! The GPU backend: shaders that naga reads without a GPU, and operations held against their definition.
#![cfg(feature = "gpu")]

use annvil::compute::gpu::kernels::{self, Kernel};

fn parsed(kernel: &Kernel) -> naga::Module {
    naga::front::wgsl::parse_str(&kernel.source())
        .unwrap_or_else(|error| panic!("{}: {}", kernel.name, error.emit_to_string(&kernel.source())))
}

#[test]
fn every_shader_is_valid_and_its_entry_point_bears_its_name() {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}: {}", kernel.name, error.emit_to_string(&kernel.source())));
        let entry_points: Vec<&str> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(entry_points, [kernel.name]);
    }
}

#[test]
fn structs_of_rust_and_wgsl_have_the_same_layout() {
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        for layout in kernel.layouts {
            let (_, found) = module
                .types
                .iter()
                .find(|(_, candidate)| candidate.name.as_deref() == Some(layout.name))
                .unwrap_or_else(|| panic!("{} has no struct {}", kernel.name, layout.name));
            let naga::TypeInner::Struct { members, span } = &found.inner else {
                panic!("{} of {} is no struct", layout.name, kernel.name);
            };
            let fields: Vec<(&str, usize)> =
                members.iter().map(|m| (m.name.as_deref().unwrap_or(""), m.offset as usize)).collect();
            assert_eq!(fields, layout.fields, "{} of {}", layout.name, kernel.name);
            assert_eq!(*span as usize, layout.size, "{} of {}", layout.name, kernel.name);
        }
    }
}

#[test]
fn pipelines_set_every_override_that_has_no_formula() {
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        let mut open: Vec<&str> = module
            .overrides
            .iter()
            .filter(|(_, constant)| match constant.init {
                None => true,
                Some(init) => matches!(module.global_expressions[init], naga::Expression::Literal(_)),
            })
            .filter_map(|(_, constant)| constant.name.as_deref())
            .collect();
        open.sort_unstable();
        let mut given = kernel.overrides.to_vec();
        given.sort_unstable();
        assert_eq!(open, given, "{}", kernel.name);
    }
}

//! libdqt for Zig projects: `zig fetch --save ARCHIVE` (of `make dist`, or git+https), then
//!     const dqt = b.dependency("dqt", .{ .target = target, .optimize = optimize });
//!     exe.root_module.linkLibrary(dqt.artifact("dqt"));   // static; its header comes with it
//!     exe.root_module.addImport("dqt", dqt.module("dqt")); // dqt.h, translated
//! The flags are those of the Makefile. Without OpenMP: threads are the host's (DQT_THREADING_HOST, see examples/zig).
const std = @import("std");

const flags = [_][]const u8{
    "-std=c11",           "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math",
};

pub fn build(b: *std.Build) !void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const checked = b.option(bool, "checked", "assertions of internal preconditions") orelse false;

    const module = b.createModule(.{ .target = target, .optimize = optimize, .link_libc = true, .sanitize_c = .off });
    module.addIncludePath(b.path("include"));
    module.addIncludePath(b.path("src"));
    if (checked) module.addCMacro("DQT_CHECKED", "1");
    var folders = try b.build_root.handle.openDir("src", .{ .iterate = true });
    defer folders.close();
    var walker = try folders.walk(b.allocator);
    while (try walker.next()) |entry| {
        if (entry.kind != .file or !std.mem.endsWith(u8, entry.basename, ".c")) continue;
        // Kernels name their instruction set in themselves, but clang's arm_neon.h wants it as a flag.
        const arm = target.result.cpu.arch == .aarch64;
        const dotprod = arm and std.mem.endsWith(u8, entry.basename, "_dotprod.c");
        const i8mm = arm and std.mem.endsWith(u8, entry.basename, "_i8mm.c");
        module.addCSourceFile(.{
            .file = b.path(b.fmt("src/{s}", .{entry.path})),
            .flags = if (dotprod)
                &(flags ++ .{"-march=armv8.2-a+dotprod"})
            else if (i8mm)
                &(flags ++ .{"-march=armv8.2-a+dotprod+i8mm"})
            else
                &flags,
        });
    }
    const library = b.addLibrary(.{ .name = "dqt", .linkage = .static, .root_module = module });
    library.installHeader(b.path("include/dqt.h"), "dqt.h");
    library.installHeader(b.path("examples/cpp/dqt.hpp"), "dqt.hpp");
    b.installArtifact(library);

    const header = b.addTranslateC(.{ .root_source_file = b.path("include/dqt.h"), .target = target, .optimize = optimize });
    _ = header.addModule("dqt");
}

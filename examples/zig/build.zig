//! A Zig project that takes libdqt as a package: `zig build` makes zig-out/bin/train and own_transformer.
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const dqt = b.dependency("dqt", .{ .target = target, .optimize = optimize }).artifact("dqt");

    const c = b.addTranslateC(.{ .root_source_file = b.path("c.h"), .target = target, .optimize = optimize });
    c.addIncludePath(dqt.getEmittedIncludeTree());

    const module = c.createModule();
    for ([_][]const u8{ "train", "own_transformer" }) |name| {
        const source = b.path(b.fmt("{s}.zig", .{name}));
        const program = b.createModule(.{ .root_source_file = source, .target = target, .optimize = optimize });
        program.addImport("c", module);
        program.linkLibrary(dqt);
        b.installArtifact(b.addExecutable(.{ .name = name, .root_module = program }));
    }
}

//! A Zig project that takes libdqt as a package: `zig build` makes zig-out/bin/train.
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const dqt = b.dependency("dqt", .{ .target = target, .optimize = optimize }).artifact("dqt");

    const c = b.addTranslateC(.{ .root_source_file = b.path("c.h"), .target = target, .optimize = optimize });
    c.addIncludePath(dqt.getEmittedIncludeTree());

    const train = b.createModule(.{ .root_source_file = b.path("train.zig"), .target = target, .optimize = optimize });
    train.addImport("c", c.createModule());
    train.linkLibrary(dqt);
    b.installArtifact(b.addExecutable(.{ .name = "train", .root_module = train }));
}

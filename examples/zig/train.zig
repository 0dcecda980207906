//! The program of ../binding.c in Zig, with threads of its own. The same lines, the same file, byte for byte.
//! `c` is the translation of c.h; README.md says how it is made.
//! usage: train CHECKPOINT
const std = @import("std");
const c = @import("c");

const text = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of " ++
    "foolishness, it was the epoch of belief";
const sequences = 2;
const length = 64;
const steps = 20;

/// A status as an error; the sentence is printed where it is known.
const Failed = error{Dqt};

fn ok(ctx: ?*const c.dqt_context, status: c.dqt_status) Failed!void {
    if (status == c.DQT_OK) return;
    std.debug.print("{s}: {s}\n", .{ std.mem.span(c.dqt_status_string(status)), std.mem.span(c.dqt_last_error(ctx)) });
    return Failed.Dqt;
}

/// An options struct with the library's defaults.
fn defaults(comptime Options: type, init: anytype) Failed!Options {
    var options: Options = undefined;
    try ok(null, init(&options, @sizeOf(Options)));
    return options;
}

/// A struct of zeros with its size set, as DQT_INIT makes it.
fn zeros(comptime Struct: type) Struct {
    var result = std.mem.zeroes(Struct);
    result.struct_size = @sizeOf(Struct);
    return result;
}

const max_threads = 16;

/// Runs each task on a thread, the first on the caller's; a thread that cannot be started leaves its task to the caller.
fn parallelFor(_: ?*anyopaque, count: usize, task: c.dqt_task_fn, data: ?*anyopaque) callconv(.c) void {
    var threads: [max_threads]?std.Thread = @splat(null);
    for (1..count) |i| threads[i] = std.Thread.spawn(.{}, runTask, .{ task.?, data, i }) catch null;
    task.?(data, 0);
    for (1..count) |i| {
        if (threads[i]) |thread| thread.join() else task.?(data, i);
    }
}

fn runTask(task: std.meta.Child(c.dqt_task_fn), data: ?*anyopaque, index: usize) void {
    task(data, index);
}

fn run(path: [*:0]const u8) Failed!void {
    var context_options = try defaults(c.dqt_context_options, c.dqt_context_options_init);
    context_options.num_threads = 2;
    context_options.parallel_for = parallelFor;
    var ctx: ?*c.dqt_context = null;
    try ok(null, c.dqt_context_create(&context_options, &ctx));
    defer c.dqt_context_destroy(ctx);

    var config = try defaults(c.dqt_llama_config, c.dqt_llama_config_init);
    config.hidden_size = 64;
    config.intermediate_size = 128;
    config.num_layers = 2;
    config.num_heads = 4;
    var model: ?*c.dqt_llama = null;
    try ok(ctx, c.dqt_llama_create(ctx, &config, &model));
    defer c.dqt_llama_destroy(model);
    var layers: [*c]const ?*c.dqt_layer = null;
    var num_layers: usize = 0;
    try ok(ctx, c.dqt_llama_get_layers(model, &layers, &num_layers));

    var tape_options = try defaults(c.dqt_tape_options, c.dqt_tape_options_init);
    tape_options.max_batch = sequences;
    tape_options.max_length = length;
    var tape: ?*c.dqt_tape = null;
    try ok(ctx, c.dqt_tape_create(ctx, layers, num_layers, &tape_options, &tape));
    defer c.dqt_tape_destroy(tape);

    var updater_options = try defaults(c.dqt_updater_options, c.dqt_updater_options_init);
    var updater: ?*c.dqt_updater = null;
    try ok(ctx, c.dqt_updater_create(ctx, layers, num_layers, &updater_options, &updater));
    defer c.dqt_updater_destroy(updater);

    var tokens: [sequences * length]i32 = undefined;
    var targets: [sequences * length]i32 = undefined;
    for (&tokens, &targets, 0..) |*token, *target, i| {
        token.* = text[i];
        target.* = text[i + 1];
    }
    var batch = zeros(c.dqt_batch);
    batch.batch = sequences;
    batch.length = length;
    batch.tokens = &tokens;
    batch.targets = &targets;
    var rate = zeros(c.dqt_step_options);
    var loss: f32 = 0;
    for (0..steps) |step| {
        try ok(ctx, c.dqt_tape_zero_gradients(tape));
        try ok(ctx, c.dqt_llama_loss(model, tape, &batch, &loss, null));
        try ok(ctx, c.dqt_llama_backward(model, tape, 1));
        rate.learning_rate = c.dqt_schedule_cosine(step, 2, steps, 0.02, 0.1);
        try ok(ctx, c.dqt_updater_step(updater, tape, &rate, null));
        const bits: u32 = @bitCast(loss);
        _ = c.printf("step %2d  loss %.6f  %08x\n", @as(c_int, @intCast(step)), @as(f64, loss), bits);
    }
    const host = "binding";
    var note = zeros(c.dqt_save_options);
    note.host = host;
    note.host_size = host.len;
    try ok(ctx, c.dqt_llama_save(model, updater, path, &note));

    try mixedFormats(ctx);
    tokens[3] = 256;
    const status = c.dqt_llama_loss(model, tape, &batch, &loss, null);
    _ = c.printf("%s: %s\n", c.dqt_status_string(status), c.dqt_last_error(ctx));
}

/// Another format for some of the weights, by their names: the model has it.
fn mixedFormats(ctx: ?*c.dqt_context) Failed!void {
    var down: c.dqt_tensor_override = .{ .pattern = "*.mlp.down", .options = try defaults(c.dqt_tensor_options, c.dqt_tensor_options_init) };
    down.options.storage = c.DQT_FORMAT_INT8;
    var config = try defaults(c.dqt_llama_config, c.dqt_llama_config_init);
    config.overrides = &down;
    config.num_overrides = 1;
    var model: ?*c.dqt_llama = null;
    try ok(ctx, c.dqt_llama_create(ctx, &config, &model));
    defer c.dqt_llama_destroy(model);
    try ok(ctx, c.dqt_llama_get_config(model, &config));
    if (config.num_overrides != 1 or config.overrides[0].options.storage != c.DQT_FORMAT_INT8) return error.Dqt;
}

pub export fn main(argc: c_int, argv: [*c][*c]u8) c_int {
    if (argc != 2) {
        std.debug.print("usage: train CHECKPOINT\n", .{});
        return 2;
    }
    run(argv[1]) catch return 1;
    return 0;
}

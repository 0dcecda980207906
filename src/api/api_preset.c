/* Presets: the recipes of docs/results.md. */
#include "api/check.h"

static const dqt_preset_options preset_defaults = {.struct_size = sizeof(dqt_preset_options)};

dqt_status dqt_preset_options_init(dqt_preset_options *options, size_t struct_size) {
    return options_init(options, struct_size, &preset_defaults, sizeof preset_defaults, "dqt_preset_options");
}

dqt_status dqt_preset_get(const dqt_preset_options *options, dqt_llama_config *config, dqt_updater_options *updater,
                          dqt_preset *preset) {
    (void)options, (void)config, (void)updater, (void)preset;
    return fail(NULL, DQT_E_UNSUPPORTED, "dqt_preset_get is not there yet");
}

// Two faults of NNI's manager, mended where it is loaded after this (node --require).
const Module = require("module");
const load = Module._load;
const NEW_TRIAL = "TR"; // from the tuner

// The manager gives the parameters of a trial to whichever trial asks first: of two that begin together, each may run
// with those of the other, under its name. Here they are kept for their trial.
function keepParameters(service) {
  const submit = service.submitTrialJob;
  service.submitTrialJob = async function (form) {
    const trial = await submit.call(this, form);
    const place = this.parameters.indexOf(form.hyperParameters.value);
    if (place >= 0) {
      this.parameters.splice(place, 1);
      this.allocatedParameters.set(trial.id, form.hyperParameters.value);
    }
    return trial;
  };
}

// After a resume, a grid search does not know of the trials that are run again, and gives their parameters once more
// in place of others. Here it is asked for the next ones instead.
function passOverResumed(manager) {
  const take = manager.onTunerCommand;
  manager.onTunerCommand = async function (command, content) {
    if (command !== NEW_TRIAL || this.config.tuner?.name !== "GridSearch" || !this.trialDataForResume) {
      return take.call(this, command, content);
    }
    const given = JSON.stringify(JSON.parse(content).parameters);
    const resumed = JSON.parse(this.trialDataForResume).map((trial) => JSON.stringify(trial.parameters));
    return resumed.includes(given) ? this.requestTrialJobs(1) : take.call(this, command, content);
  };
}

Module._load = function (request, ...rest) {
  const loaded = load.call(this, request, ...rest);
  for (const [ending, name, mend] of [
    ["training_service/v3/compat", "V3asV1", keepParameters],
    ["core/nnimanager", "NNIManager", passOverResumed],
  ]) {
    if (request.endsWith(ending) && !loaded[name].mended) {
      mend(loaded[name].prototype);
      loaded[name].mended = true;
    }
  }
  return loaded;
};

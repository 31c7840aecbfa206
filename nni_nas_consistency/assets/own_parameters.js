// NNI's manager gives the parameters of a trial to whichever trial asks first: of two that begin together, each may run
// with those of the other, under its name. Loaded before the manager (node --require), this keeps them for their trial.
const Module = require("module");
const load = Module._load;

function keepParameters(service) {
  const submit = service.prototype.submitTrialJob;
  service.prototype.submitTrialJob = async function (form) {
    const trial = await submit.call(this, form);
    const place = this.parameters.indexOf(form.hyperParameters.value);
    if (place >= 0) {
      this.parameters.splice(place, 1);
      this.allocatedParameters.set(trial.id, form.hyperParameters.value);
    }
    return trial;
  };
  service.keepsParameters = true;
}

Module._load = function (request, ...rest) {
  const loaded = load.call(this, request, ...rest);
  if (request.endsWith("training_service/v3/compat") && !loaded.V3asV1.keepsParameters) {
    keepParameters(loaded.V3asV1);
  }
  return loaded;
};

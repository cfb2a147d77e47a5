#!/usr/bin/env bash
# The model of the package, from public files to its folder: data, training, shipping. data and train go on where
# they were interrupted; before prepare is repeated, its raw data set is removed. Needs nnUNet_raw, nnUNet_preprocessed,
# nnUNet_results, and the files below in the folder SOURCES.
#
#   imalife.nii.gz                   airways; bronchipy, tests' data (under a licence like MIT's)
#   ATM_305.nii.gz, ATM_384.nii.gz   airways by the team deeptree_damo; ATM-22-Related-Work (MIT)
#   LUNGx-CT004.nii.gz               CT of the SPIE-AAPM Lung CT Challenge, The Cancer Imaging Archive (CC BY 3.0)
#   LIDC-IDRI-0001.nii.gz            CT of LIDC-IDRI, there (CC BY 3.0); on it the operating point is chosen
#   weight.pth                       the ATM'22 organisers' baseline; ATM-22-Related-Work (MIT)
#
# for part in data prepare train ship; do benchmarks/model.sh SOURCES $part; done
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sources=$1
patient="$nnUNet_raw/segmented"
ct="--ct $patient/cts/LUNGx-CT004_0000.nii.gz $patient/LUNGx-CT004.nii.gz"
trainer=nnUNetTrainerATM22AirwayPaired
trained="$nnUNet_results/Dataset654_Box/${trainer}__nnUNetBoxPlans__3d_fullres"
start="$nnUNet_results/baseline/fold_0/checkpoint_final.pth"

data() {
    # imalife is a map of shares, of which airway is what is above a half
    python -c "import SimpleITK as sitk, sys; sitk.WriteImage(sitk.ReadImage(sys.argv[1]) > 0.5, sys.argv[2])" \
        "$sources/imalife.nii.gz" "$nnUNet_raw/imalife.nii.gz"
    trees="$nnUNet_raw/imalife.nii.gz $sources/ATM_305.nii.gz $sources/ATM_384.nii.gz"
    nnUNetv2_airway_segment -i "$sources/LUNGx-CT004.nii.gz" -o "$patient" -m "$sources/weight.pth"
    python "$here/other_airways.py" -d 655 -name Other $ct --from-mask $trees -n 6
    phantoms="nnUNetv2_airway_phantom --vary 0.3 --lung-box 10 -n_test 0 --from-mask $trees"
    $phantoms -d 650 -name Fine -n 3 --noise 35 --spacing 0.8 0.8 0.8
    $phantoms -d 651 -name Thin -n 3 --noise 35 --spacing 1.25 0.7 0.7 --seed 1
    $phantoms -d 652 -name Thick -n 3 --noise 25 --spacing 2.5 0.7 0.7 --seed 2
}

others() { # the cases with airways of others, as options of study_data.py
    folder="$nnUNet_raw/Dataset655_Other"
    for number in 0 1 2 3 4 5; do
        name="00${number}_LUNGx-CT004"
        echo "--ct $folder/imagesTr/${name}_0000.nii.gz $folder/labelsTr/$name.nii.gz"
    done
}

prepare() {
    python "$here/study_data.py" --keep-air -d 654 -name Box --join 650 651 652 $ct $(others) --slices 2 3 5
    nnUNetv2_extract_fingerprint -d 654 -np 2
    nnUNetv2_plan_experiment -d 654 -overwrite_target_spacing 0.85 0.85 0.85 -overwrite_plans_name nnUNetBoxPlans
    # linear also across thick slices, where nnU-Net takes the nearest one
    python - "$nnUNet_preprocessed/Dataset654_Box/nnUNetBoxPlans.json" <<'END'
import json, sys
plans = json.load(open(sys.argv[1]))
row = plans["configurations"]["3d_fullres"]
for what in ("data", "seg", "probabilities"):
    row[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
    row[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "force_separate_z": False}
json.dump(plans, open(sys.argv[1], "w"), indent=4)
END
    nnUNetv2_preprocess -d 654 -plans_name nnUNetBoxPlans -c 3d_fullres -np 2
}

train() {
    how=--c
    if [ ! -e "$trained/fold_all/checkpoint_latest.pth" ]; then
        nnUNetv2_airway_import -i "$sources/weight.pth" -o "$nnUNet_results/baseline"
        how="-pretrained_weights $start"
    fi
    nnUNet_extTrainer="$here/model_trainers" \
        nnUNetv2_train 654 3d_fullres all -tr $trainer -p nnUNetBoxPlans -device cpu $how
}

folder() {
    python "$here/ship_model.py" -i "$trained/fold_all/checkpoint_final.pth" -from "$start" -o "$model" "$@"
}

ship() { # weights, then the operating point: in a patient of whom nothing was in the training, against the baseline
    model="$here/../nnunetv2_airway/model"
    tuning="$nnUNet_results/tuning"
    folder
    nnUNetv2_airway_segment -i "$sources/LIDC-IDRI-0001.nii.gz" -o "$tuning/reference" -m "$sources/weight.pth"
    nnUNetv2_predict_from_modelfolder -i "$tuning/reference/cts" -o "$tuning/predictions" -m "$model" -f all \
        -device cpu --disable_tta --save_probabilities
    nnUNetv2_airway_tune -i "$tuning/predictions" -ref "$tuning/reference" -o "$tuning" --precision 90 --thresholds-only
    folder -point "$tuning/operating_point.json"
}

"$2"

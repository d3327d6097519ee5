"""A small table of every known cohort, made up, with published columns and codes, and names of images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Files of a cohort's folder (name to text), images in it, and columns of the manifest that they must become."""

    files: dict[str, str]
    images: list[str]
    expected: dict[str, list]


def csv(*lines):
    return "\n".join(lines) + "\n"


def tsv(*lines):
    return csv(*lines).replace(",", "\t")


CASES = {
    "abide1": Case(
        {
            "Phenotypic_V1_0b_preprocessed1.csv": csv(
                ",SUB_ID,SITE_ID,FILE_ID,DX_GROUP,DSM_IV_TR,AGE_AT_SCAN,SEX,FIQ",
                "1,50002,PITT,no_filename,1,1,16.77,1,103",
                "2,50030,PITT,Pitt_0050030,2,0,25.12,2,-9999",
            ),
        },
        ["PITT/0050002/session_1/anat_1/mprage.nii.gz", "PITT/0050030/session_1/anat_1/mprage.nii.gz"],
        {
            "participant_id": ["sub-0050002", "sub-0050030"],
            "diagnosis": ["autism", "control"],
            "age": [16.77, 25.12],
            "sex": ["M", "F"],
            "site": ["PITT", "PITT"],
            "FIQ": [103, None],
        },
    ),
    "abide2": Case(
        {
            "ABIDEII_Composite_Phenotypic.csv": csv(
                "SITE_ID,SUB_ID,NDAR_GUID,DX_GROUP,PDD_DSM_IV_TR,AGE_AT_SCAN ,SEX,FIQ",
                "ABIDEII-BNI_1,29006,,1,,48,1,119",
                "ABIDEII-BNI_1,29007,,2,,41,2,",
            ),
        },
        ["ABIDEII-BNI_1/29006/session_1/anat_1/anat.nii.gz", "ABIDEII-BNI_1/29007/session_1/anat_1/anat.nii.gz"],
        {"diagnosis": ["autism", "control"], "age": [48, 41], "sex": ["M", "F"], "FIQ": [119, None]},
    ),
    "adni": Case(
        {
            "ADNIMERGE.csv": csv(
                "RID,COLPROT,PTID,SITE,VISCODE,EXAMDATE,DX_bl,AGE,PTGENDER,ICV,DX,Years_bl",
                "295,ADNI1,002_S_0295,2,bl,2006-04-18,CN,84.8,Male,1984660,CN,0",
                "295,ADNI1,002_S_0295,2,m06,2006-11-02,CN,84.8,Male,,MCI,0.5",
                "413,ADNI2,002_S_0413,2,m120,2016-05-02,CN,76.3,Female,1650000,Dementia,10",
            ),
        },
        [
            "sub-ADNI002S0295/ses-M000/anat/sub-ADNI002S0295_ses-M000_T1w.nii.gz",
            "sub-ADNI002S0295/ses-M006/anat/sub-ADNI002S0295_ses-M006_T1w.nii.gz",
            "sub-ADNI002S0413/ses-M120/anat/sub-ADNI002S0413_ses-M120_T1w.nii.gz",
        ],
        {
            "session_id": ["ses-M000", "ses-M006", "ses-M120"],
            "diagnosis": ["control", "MCI", "dementia"],
            "age": [84.8, 85.3, 86.3],
            "sex": ["M", "M", "F"],
            "site": ["2", "2", "2"],
            "tiv": [1984.66, None, 1650],
        },
    ),
    "bsnip": Case(
        {
            "ndar_subject01.txt": tsv(
                "collection_id,subjectkey,src_subject_id,interview_date,interview_age,sex,phenotype,site",
                "collection_id,GUID,Subject ID,Date,Age in months,Sex of the subject,Phenotype,Site",
                "2274,NDAR_A,S0001,01/01/2010,426,F,a disorder,Hartford",
                "2274,NDAR_B,S0002,01/01/2010,360,M,no disorder,Boston",
            ),
        },
        ["sub-S0001/anat/sub-S0001_T1w.nii.gz", "sub-S0002/anat/sub-S0002_T1w.nii.gz"],
        {
            "diagnosis": ["a disorder", "no disorder"],
            "age": [35.5, 30],
            "sex": ["F", "M"],
            "site": ["Hartford", "Boston"],
        },
    ),
    "camcan": Case(
        {
            "participants.tsv": tsv("participant_id,age,gender_code", "sub-CC110033,24,1", "sub-CC110037,18,2"),
        },
        ["sub-CC110033/anat/sub-CC110033_T1w.nii.gz", "sub-CC110037/anat/sub-CC110037_T1w.nii.gz"],
        {"diagnosis": ["control", "control"], "age": [24, 18], "sex": ["M", "F"]},
    ),
    "cobre": Case(
        {
            "COBRE_phenotypic_data.csv": csv(
                ",Current Age,Gender,Handedness,Subject Type,Diagnosis",
                "40000,20,Female,Right,Patient,295.70 depressed type",
                "40013,24,Male,Left,Control,None",
                "40083,Disenrolled,Disenrolled,Disenrolled,Disenrolled,Disenrolled",
            ),
        },
        [
            "COBRE/0040000/session_1/anat_1/mprage.nii.gz",
            "COBRE/0040013/session_1/anat_1/mprage.nii.gz",
            "COBRE/0040083/session_1/anat_1/mprage.nii.gz",
        ],
        {
            "diagnosis": ["schizophrenia", "control", None],
            "age": [20, 24, None],
            "sex": ["F", "M", None],
            "dsm_code": ["295.70 depressed type", None, None],
        },
    ),
    "ds000030": Case(
        {
            "participants.tsv": tsv(
                "participant_id,diagnosis,age,gender,T1w,ScannerSerialNumber",
                "sub-10159,CONTROL,30,F,1,35343.0",
                "sub-50004,SCHZ,38,F,1,35426.0",
            ),
        },
        ["sub-10159/anat/sub-10159_T1w.nii.gz", "sub-50004/anat/sub-50004_T1w.nii.gz"],
        {"diagnosis": ["control", "schizophrenia"], "scanner": ["35343", "35426"], "sex": ["F", "F"]},
    ),
    "ds002748": Case(
        {
            "participants.tsv": tsv(
                "participant_id,age,gender,group,MADRS", "sub-01,39,m,depr,n/a", "sub-52,31,f,control,0"
            ),
        },
        ["sub-01/anat/sub-01_T1w.nii.gz", "sub-52/anat/sub-52_T1w.nii.gz"],
        {"diagnosis": ["depression", "control"], "sex": ["M", "F"], "MADRS": [None, 0]},
    ),
    "hcp": Case(
        {
            "unrestricted_someone_1_2_2024.csv": csv(
                "Subject,Release,Acquisition,Gender,Age,FS_IntraCranial_Vol",
                "100004,S900,Q06,M,22-25,1710000",
                "100206,S900,Q11,F,26-30,",
            ),
            "RESTRICTED_someone_1_2_2024.csv": csv(
                "Subject,Age_in_Yrs,ZygositySR,Family_ID", "100004,24,MZ,52259_82122", "100206,27,NotMZ,56037_85858"
            ),
        },
        ["100004/T1w/T1w_acpc_dc_restore.nii.gz", "100206/T1w/T1w_acpc_dc_restore.nii.gz"],
        {
            "diagnosis": ["control", "control"],
            "age": [24, 27],
            "age_range": ["22-25", "26-30"],
            "sex": ["M", "F"],
            "family_id": ["52259_82122", "56037_85858"],
            "tiv": [1710, None],
        },
    ),
    "ixi": Case(
        {
            "IXI.csv": csv(
                'IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,ETHNIC_ID,DOB,DATE_AVAILABLE,STUDY_DATE,AGE',
                "2,2,164,58,1,1970-02-22,1,2005-11-18,35.8",
                "646,1,170,90,1,1970-02-22,1,2005-11-18,",
            ),
        },
        ["IXI002-Guys-0828-T1.nii.gz", "IXI646-HH-2653-T1.nii.gz", "IXI646-HH-2653-T2.nii.gz"],
        {
            "participant_id": ["sub-IXI002", "sub-IXI646"],
            "diagnosis": ["control", "control"],
            "age": [35.8, None],
            "sex": ["F", "M"],
            "site": ["Guys", "HH"],
        },
    ),
    "mcic": Case(
        {
            "participants.tsv": tsv(
                "participant_id,dx", "sub-A00036106,No_Known_Disorder", "sub-A00036112,Schizophrenia_Strict"
            ),
        },
        [
            "sub-A00036106/ses-1/anat/sub-A00036106_ses-1_T1w.nii",
            "sub-A00036112/ses-1/anat/sub-A00036112_ses-1_T1w.nii",
        ],
        {"diagnosis": ["control", "schizophrenia"]},
    ),
    "oasis1": Case(
        {
            "oasis_cross-sectional.csv": csv(
                "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay",
                "OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A",
                "OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A",
                "OAS1_0061_MR1,F,R,20,,,,,1300,0.85,1.3,N/A",
                "OAS1_0061_MR2,F,R,20,,,,,1301,0.85,1.3,40",
            ),
        },
        [
            "OAS1_0001_MR1/mwrc1OAS1_0001_MR1_mpr_anon_fslswapdim_bet.nii.gz",
            "OAS1_0003_MR1/mwrc1OAS1_0003_MR1_mpr_anon_fslswapdim_bet.nii.gz",
            "OAS1_0061_MR1/mwrc1OAS1_0061_MR1_mpr_anon_fslswapdim_bet.nii.gz",
        ],
        {
            "participant_id": ["sub-OASIS10001", "sub-OASIS10003", "sub-OASIS10061"],
            "diagnosis": ["control", "dementia", None],
            "cdr": [0, 0.5, None],
            "age": [74, 73, 20],
            "sex": ["F", "F", "F"],
            "tiv": [1344, 1454, 1300],
        },
    ),
    "oasis3": Case(
        {
            "OASIS3_UDSb4_cdr.csv": csv(
                "OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRTOT,CDRSUM,dx1",
                "OAS30001,OAS30001_UDSb4_d0000,0000,65.1,28,0,0,Cognitively normal",
                "OAS30001,OAS30001_UDSb4_d0339,0339,66.0,28,0.5,1,uncertain dementia",
                "OAS30002,OAS30002_UDSb4_d0000,0000,67.2,20,1,6,AD Dementia",
            ),
            "OASIS3_demographics.csv": csv(
                "OASISID,AgeatEntry,GENDER,EDUC,HAND,APOE", "OAS30001,65.1,2,12,R,23", "OAS30002,67.2,1,18,R,34"
            ),
            "OASIS3_MR_sessions.csv": csv(
                "Label,Subject,M/F,Age,Scanner",
                "OAS30001_MR_d0129,OAS30001,F,65.0,3.0T",
                "OAS30002_MR_d0371,OAS30002,M,68.2,1.5T",
            ),
        },
        [
            "OAS30001_MR_d0129/anat2/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz",
            "OAS30002_MR_d0371/anat1/sub-OAS30002_ses-d0371_T1w.nii.gz",
        ],
        {
            "participant_id": ["sub-OAS30001", "sub-OAS30002"],
            "session_id": ["ses-d0129", "ses-d0371"],
            "run": ["01", None],
            "diagnosis": ["control", "dementia"],
            "cdr": [0, 1],
            "age": [65, 68.2],
            "sex": ["F", "M"],
            "scanner": ["3.0T", "1.5T"],
        },
    ),
    "openbhb": Case(
        {
            "participants.tsv": tsv(
                "participant_id,study,sex,age,site,diagnosis,tiv,csfv,gmv,wmv,siteXacq,split",
                "100053248969,2,male,24.5,3,control,1500.2,300,700,500.2,4,train",
                "100095891569,2,female,30,3,control,1400,300,700,400,4,val",
            ),
        },
        [
            "sub-100053248969/ses-1/sub-100053248969_preproc-cat12vbm_desc-gm_T1w.nii.gz",
            "sub-100053248969/ses-1/sub-100053248969_preproc-quasiraw_T1w.nii.gz",
            "sub-100095891569/ses-1/sub-100095891569_preproc-cat12vbm_desc-gm_T1w.nii.gz",
            "sub-100095891569/ses-1/sub-100095891569_preproc-quasiraw_T1w.nii.gz",
        ],
        {
            "diagnosis": ["control", "control"],
            "age": [24.5, 30],
            "sex": ["M", "F"],
            "tiv": [1500.2, 1400],
            "openbhb_split": ["train", "val"],
        },
    ),
    "ppmi": Case(
        {
            "Participant_Status_19Oct2023.csv": csv(
                "PATNO,COHORT,COHORT_DEFINITION,ENROLL_STATUS,ENROLL_AGE",
                "3000,2,Healthy Control,Enrolled,69.1",
                "3001,1,Parkinson's Disease,Enrolled,65.2",
            ),
            "Demographics.csv": csv("REC_ID,PATNO,EVENT_ID,SEX,HANDED", "1,3000,TRANS,0,1", "2,3001,TRANS,1,2"),
            "Age_at_visit.csv": csv("PATNO,EVENT_ID,AGE_AT_VISIT", "3000,BL,69.2", "3000,V04,70.2", "3001,BL,65.3"),
        },
        [
            "sub-3000/ses-BL/anat/sub-3000_ses-BL_T1w.nii.gz",
            "sub-3000/ses-V04/anat/sub-3000_ses-V04_T1w.nii.gz",
            "sub-3001/ses-BL/anat/sub-3001_ses-BL_T1w.nii.gz",
        ],
        {"diagnosis": ["control", "control", "parkinson"], "age": [69.2, 70.2, 65.3], "sex": ["F", "F", "M"]},
    ),
    "schizconnect": Case(
        {
            "schizconnect_metaData_1829.csv": csv(
                "study,subjectid,age,sex,dx,field_strength,img_date,datauri,maker,imaging_protocol_site",
                "COBRE,A00000300,27,male,No_Known_Disorder,3,1/1/11,a,Siemens,MRN",
                "COBRE,A00000300,27,male,No_Known_Disorder,3,1/1/11,b,Siemens,MRN",
                "COBRE,A00000368,40,female,Schizophrenia_Strict,3,1/1/11,c,Siemens,MRN",
            ),
        },
        [
            "sub-A00000300/ses-20110101/anat/sub-A00000300_ses-20110101_acq-mprage_run-01_T1w.nii.gz",
            "sub-A00000368/ses-20110101/anat/sub-A00000368_ses-20110101_acq-mprage_run-01_T1w.nii.gz",
        ],
        {
            "diagnosis": ["control", "schizophrenia"],
            "age": [27, 40],
            "sex": ["M", "F"],
            "site": ["MRN", "MRN"],
            "study": ["COBRE", "COBRE"],
        },
    ),
    "ukbiobank": Case(
        {
            "ukb12345.csv": csv(
                "eid,31-0.0,54-2.0,21003-0.0,21003-2.0,26521-2.0,diagnosis",
                "1000011,0,11025,55,63,1500000,none",
                "1000027,1,11027,50,59,1600000,F32",
            ),
        },
        ["1000011_20252_2_0/T1/T1_brain_to_MNI.nii.gz", "1000027_20252_2_0/T1/T1_brain_to_MNI.nii.gz"],
        {
            "session_id": ["ses-2", "ses-2"],
            "diagnosis": ["none", "F32"],
            "age": [63, 59],
            "sex": ["F", "M"],
            "site": ["Cheadle", "Newcastle"],
            "tiv": [1500, 1600],
        },
    ),
}
